package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft.dev/weft/event"
)

// BridgeConfig is the scenario "bridge": publishes on a subject that a bridge of
// the node carries to a Kafka topic, and reads that topic.
type BridgeConfig struct {
	Load
	Brokers []string
	Topic   string
	Subject string // a bridged subject
	Keys    int    // partition keys; order is checked per key
}

// DefaultBridge is 32 keys for ten seconds; brokers, topic and subject are the
// caller's.
func DefaultBridge() BridgeConfig {
	return BridgeConfig{
		Load: Load{Duration: 10 * time.Second, Warmup: time.Second, Size: 512, Connections: 32, Grace: 30 * time.Second},
		Keys: 32,
	}
}

// Validate names every setting that cannot work.
func (c BridgeConfig) Validate() error {
	return errors.Join(
		c.validate(),
		check(len(c.Brokers) > 0, "brokers", "at least one host:port of Kafka"),
		check(c.Topic != "", "topic", "the topic the bridge writes to"),
		event.CheckSubject(c.Subject),
		check(c.Keys > 0 && c.Keys <= maxStreams, "keys", fmt.Sprintf("1 to %d", maxStreams)),
	)
}

// Bridge runs the scenario.
func Bridge(ctx context.Context, cfg BridgeConfig, progress io.Writer) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	run := newRun()
	streams := make([]*stream, cfg.Keys)
	receive := &receiver{ledger: newLedger()}
	for k := range streams {
		streams[k] = &stream{
			key: k, subject: cfg.Subject, tracked: true,
			headers: fmt.Sprintf("Ce-Partitionkey: load-%s-%d\r\n", run, k),
		}
		receive.keys = append(receive.keys, k)
	}
	p, err := newPump(cfg.Load, run, streams)
	if err != nil {
		return Report{}, err
	}
	s := newSink(run, p)
	stop, err := consume(ctx, cfg, s, receive.ledger)
	if err != nil {
		return Report{}, err
	}
	defer stop()
	if err := s.publish(ctx, "bridge", []*receiver{receive}, progress); err != nil {
		return Report{}, err
	}
	stop()
	r := p.report("bridge", Setting{"topic", cfg.Topic}, Setting{"subject", cfg.Subject}, Setting{"keys", fmt.Sprint(cfg.Keys)})
	r.Delivery = s.delivery([]*receiver{receive})
	r.Delivery.Ordered = true
	return r, nil
}

// consume reads the topic from shortly before now; records of other runs are
// passed over.
func consume(ctx context.Context, cfg BridgeConfig, s *sink, l *ledger) (stop func(), err error) {
	const slack = 5 * time.Second // clocks of the brokers
	from := kgo.NewOffset().AfterMilli(time.Now().Add(-slack).UnixMilli())
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(cfg.Brokers...),
		kgo.ClientID("weft-load"),
		kgo.ConsumeTopics(cfg.Topic),
		kgo.ConsumeResetOffset(from),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to kafka: %w", err)
	}
	ping, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := cl.Ping(ping); err != nil {
		cl.Close()
		return nil, fmt.Errorf("connect to kafka %v: %w", cfg.Brokers, err)
	}
	own, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { // ends with stop
		for own.Err() == nil {
			fetches := cl.PollFetches(own)
			fetches.EachError(func(_ string, _ int32, err error) {
				if own.Err() == nil {
					s.pump.errs.add("kafka: " + kindOf(err))
				}
			})
			fetches.EachRecord(func(r *kgo.Record) { s.take(l, r.Value) })
		}
	})
	var once sync.Once
	return func() { once.Do(func() { end(); wg.Wait(); cl.Close() }) }, nil
}
