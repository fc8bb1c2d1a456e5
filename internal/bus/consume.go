package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/run"
)

// ConsumeConfig describes a durable consumer on the site's stream.
type ConsumeConfig struct {
	Durable       string
	Patterns      []string      // Weft patterns; none means everything
	AckWait       time.Duration // default 30s
	MaxAckPending int           // deliveries without an ack at a time; default 256
	From          string        // "new" (default) or "all", when the consumer is first made
}

// CheckPatterns says for each pattern what keeps it from being one of a
// consumer's, nil if nothing: the node refuses patterns that overlap.
func CheckPatterns(patterns []string) []error {
	errs := make([]error, len(patterns))
	for i, p := range patterns {
		if errs[i] = event.CheckPattern(p); errs[i] != nil {
			continue
		}
		for j, before := range patterns[:i] {
			if errs[j] == nil && event.Overlap(p, before) {
				errs[i] = fmt.Errorf("want patterns that do not overlap: some subjects match both %s and %s", before, p)
				break
			}
		}
	}
	return errs
}

// Delivery is one event handed to a consumer. Whoever holds it settles it.
type Delivery struct {
	event.Stored
	Attempt int // 1 for the first delivery
	msg     jetstream.Msg
}

// Ack says the event is done.
func (d *Delivery) Ack() error { return settled("ack", d.msg.Ack()) }

// Nak asks for the event again after delay.
func (d *Delivery) Nak(delay time.Duration) error { return settled("nak", d.msg.NakWithDelay(delay)) }

// Term says the event is never to come again.
func (d *Delivery) Term(reason string) error {
	return settled("terminate", d.msg.TermWithReason(reason))
}

// InProgress restarts the delivery's AckWait.
func (d *Delivery) InProgress() error { return settled("extend", d.msg.InProgress()) }

func settled(operation string, err error) error {
	if err != nil {
		return fmt.Errorf("%s delivery: %w", operation, err)
	}
	return nil
}

// Consume delivers events by a durable consumer until ctx ends, which is no
// error, or h fails. It makes the consumer, waits for the stream if there is
// none yet, and goes on after reconnects. h runs in one goroutine in stream
// order; it owns the Delivery until it settles it and must not block long.
func (b *Bus) Consume(ctx context.Context, cfg ConsumeConfig, h func(context.Context, *Delivery) error) error {
	if cfg.AckWait == 0 {
		cfg.AckWait = 30 * time.Second
	}
	if cfg.MaxAckPending == 0 {
		cfg.MaxAckPending = 256
	}
	for {
		err := b.consumeOnce(ctx, cfg, h)
		var own *handlerError
		switch {
		case errors.As(err, &own):
			return own.err
		case ctx.Err() != nil:
			return nil
		}
		b.Log.WarnContext(ctx, "consumer restarted", "consumer", cfg.Durable, "err", err)
		run.Pause(ctx, 500*time.Millisecond)
	}
}

func (b *Bus) consumeOnce(ctx context.Context, cfg ConsumeConfig, h func(context.Context, *Delivery) error) error {
	cons, err := b.ensureConsumer(ctx, cfg)
	if err != nil {
		return err
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(min(cfg.MaxAckPending, 500)), jetstream.PullHeartbeat(5*time.Second))
	if err != nil {
		return fmt.Errorf("start consumer: %w", err)
	}
	defer giveBack(it)
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if errors.Is(err, jetstream.ErrNoHeartbeat) || errors.Is(err, nats.ErrDisconnected) {
			continue // the pull is renewed by the library; a deleted consumer ends it
		}
		if err != nil {
			return fmt.Errorf("pull: %w", err)
		}
		s, err := b.decode(m)
		if err != nil {
			return err
		}
		d := &Delivery{Stored: s, Attempt: attempt(m), msg: m}
		if err := h(ctx, d); err != nil {
			return &handlerError{err}
		}
	}
}

// giveBack ends a pull and returns what it has fetched and not handed over, which
// would otherwise come again only after AckWait.
func giveBack(it jetstream.MessagesContext) {
	it.Drain()
	for {
		m, err := it.Next()
		if err != nil || m.Nak() != nil {
			it.Stop()
			return
		}
	}
}

func attempt(m jetstream.Msg) int {
	md, err := m.Metadata()
	if err != nil {
		return 1
	}
	return int(md.NumDelivered)
}

// ensureConsumer makes the consumer or adapts what may change on an old one.
// Where it starts is decided once, when it is made.
func (b *Bus) ensureConsumer(ctx context.Context, cfg ConsumeConfig) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	old, err := b.js.Consumer(ctx, Stream, cfg.Durable)
	want := jetstream.ConsumerConfig{Durable: cfg.Durable, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy}
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		if cfg.From == "all" {
			want.DeliverPolicy = jetstream.DeliverAllPolicy
		}
	case err != nil:
		return nil, fmt.Errorf("look up consumer: %w", err)
	default:
		want = old.CachedInfo().Config
		if slices.Equal(want.FilterSubjects, filters(cfg.Patterns)) && want.AckWait == cfg.AckWait && want.MaxAckPending == cfg.MaxAckPending {
			return old, nil
		}
	}
	want.FilterSubject, want.FilterSubjects = "", filters(cfg.Patterns)
	want.AckWait, want.MaxAckPending = cfg.AckWait, cfg.MaxAckPending
	cons, err := b.js.CreateOrUpdateConsumer(ctx, Stream, want)
	if err != nil {
		return nil, fmt.Errorf("make consumer: %w", err)
	}
	return cons, nil
}
