package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
)

const (
	maxBuffered      = 64 << 20 // bytes the client holds; the engine's own limit is below
	maxRecord        = 16 << 20 // the client refuses more; the broker's limit is usually lower
	topicWait        = 10 * time.Second
	maxKnownTopics   = 10_000 // topics remembered as existing; beyond it all are asked again
	maxRecordsAWrite = 10_000
)

// SinkConfig is where events go.
type SinkConfig struct {
	Cluster     `yaml:",inline"`
	Topic       driver.Template `yaml:"topic" doc:"Topic, a template such as orders.{{subject 1}}"`
	Key         driver.Template `yaml:"key" doc:"Record key, a template; empty: the key the event came with, else its partitionkey, else none"`
	Compression string          `yaml:"compression" doc:"none, gzip, snappy, lz4 or zstd; empty: lz4"`
	CreateTopic bool            `yaml:"createTopic" doc:"Create a topic that does not exist"`
	Partitions  int32           `yaml:"partitions" doc:"Partitions of a created topic; 0: the brokers' default"`
	Replicas    int16           `yaml:"replicas" doc:"Replicas of a created topic; 0: the brokers' default"`
}

// Validate names every key that cannot work.
func (c SinkConfig) Validate() error {
	errs := []error{c.Cluster.Validate()}
	if c.Topic.Empty() {
		errs = append(errs, conf.Field("topic", "want a topic"))
	}
	if name, ok := c.Topic.Fixed(); ok && name != "" {
		if err := checkTopic(name); err != nil {
			errs = append(errs, conf.Field("topic", err.Error()))
		}
	}
	if c.Compression != "" {
		errs = append(errs, conf.OneOf("compression", c.Compression, "none", "gzip", "snappy", "lz4", "zstd"))
	}
	errs = append(errs, conf.AtLeast("partitions", c.Partitions, 0), conf.AtLeast("replicas", c.Replicas, 0))
	return errors.Join(errs...)
}

// checkTopic applies the rules of the brokers, so that a name no broker takes is
// known without asking one.
func checkTopic(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 249 {
		return fmt.Errorf("want a topic name of 1 to 249 characters, got %q", name)
	}
	for _, r := range name {
		if r != '.' && r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return fmt.Errorf("want a topic name of letters, digits, ., _ and -, got %q", name)
		}
	}
	return nil
}

// Sink writes events to topics. A record's order within its key is kept: the
// producer is idempotent and retries by itself, in order.
type Sink struct {
	cfg SinkConfig
	driver.Deps

	mu    sync.Mutex // guards known
	known map[string]bool
	cl    *kgo.Client // set between Open and Close
}

// NewSink returns a sink that is not connected.
func NewSink(cfg SinkConfig, d driver.Deps) *Sink { return &Sink{cfg: cfg, Deps: d} }

// Info describes the sink.
func (s *Sink) Info() driver.Info {
	return driver.Info{System: "kafka", Text: "kafka " + s.cfg.Topic.String() + " (" + s.cfg.address() + ")", MaxBatch: maxRecordsAWrite}
}

// Open implements driver.Sink.
func (s *Sink) Open(ctx context.Context) error {
	opts, err := s.cfg.options(s.Deps)
	if err != nil {
		return err
	}
	codec := kgo.Lz4Compression()
	switch s.cfg.Compression {
	case "none":
		codec = kgo.NoCompression()
	case "gzip":
		codec = kgo.GzipCompression()
	case "snappy":
		codec = kgo.SnappyCompression()
	case "zstd":
		codec = kgo.ZstdCompression()
	}
	cl, err := kgo.NewClient(append(opts,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.AllowIdempotentProduceCancellation(), // only at shutdown or when the lane is lost
		kgo.ProducerLinger(0),                    // the engine has batched already
		kgo.MaxBufferedBytes(maxBuffered),
		kgo.ProducerBatchMaxBytes(maxRecord),
		kgo.ProducerBatchCompression(codec),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // murmur2, as Java clients do
	)...)
	if err != nil {
		return fmt.Errorf("set up kafka client: %w", err)
	}
	s.cl, s.known = cl, map[string]bool{}
	if err := s.cfg.ping(ctx, cl); err != nil {
		s.Close()
		return err
	}
	return nil
}

// Close implements driver.Sink.
func (s *Sink) Close() {
	if s.cl != nil {
		s.cl.Close()
		s.cl = nil
	}
}

// Check implements driver.Sink.
func (s *Sink) Check(ctx context.Context) error {
	if err := s.Open(ctx); err != nil {
		return err
	}
	defer s.Close()
	topic, ok := s.cfg.Topic.Fixed()
	if !ok || s.cfg.CreateTopic {
		return nil
	}
	return s.cfg.exists(ctx, s.cl, topic)
}

// exists asks the cluster for a topic.
func (c Cluster) exists(ctx context.Context, cl *kgo.Client, topics ...string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	list, err := kadm.NewClient(cl).ListTopics(ctx, topics...)
	if err != nil {
		return fmt.Errorf("list kafka topics: %w", c.explain("", err))
	}
	for _, t := range topics {
		if err := list[t].Err; err != nil {
			return c.explain(t, err)
		}
		if !list.Has(t) {
			return c.explain(t, kerr.UnknownTopicOrPartition)
		}
	}
	return nil
}

// Write implements driver.Sink.
func (s *Sink) Write(ctx context.Context, recs []*driver.Record) []error {
	errs := make([]error, len(recs)) // each promise writes its own place
	waiting := map[string]error{}    // topics that cannot be written now: what follows must not overtake
	var all sync.WaitGroup
	for i, r := range recs {
		if errs[i] = waiting[r.Dest]; errs[i] != nil {
			continue
		}
		if errs[i] = s.ensure(ctx, r.Dest); errs[i] != nil {
			hold(waiting, r.Dest, errs[i])
			continue
		}
		all.Add(1)
		s.cl.Produce(ctx, record(r), func(k *kgo.Record, err error) {
			errs[i] = s.classify(k.Topic, err)
			all.Done()
		})
	}
	all.Wait()
	if len(recs) > 1 {
		s.parted(ctx, recs, errs)
	}
	if !slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return nil
	}
	return errs
}

// parted writes one by one what the broker refused together as too large: its
// limit is on what the client sends at a time, and most records are innocent.
func (s *Sink) parted(ctx context.Context, recs []*driver.Record, errs []error) {
	waiting := map[string]error{}
	for i, r := range recs {
		if !errors.Is(errs[i], kerr.MessageTooLarge) && !errors.Is(errs[i], kerr.RecordListTooLarge) {
			continue
		}
		if errs[i] = waiting[r.Dest]; errs[i] == nil {
			errs[i] = s.classify(r.Dest, s.cl.ProduceSync(ctx, record(r)).FirstErr())
			hold(waiting, r.Dest, errs[i])
		}
	}
}

// hold notes that a topic's later records wait for one that is to be retried.
func hold(waiting map[string]error, topic string, err error) {
	if _, final := driver.Reason(err); err != nil && !final {
		waiting[topic] = err
	}
}

// record maps an event: binary mode, and the time it happened.
func record(r *driver.Record) *kgo.Record {
	headers, key, value := r.Event.Kafka()
	if r.Key != nil {
		key = r.Key
	}
	out := &kgo.Record{Topic: r.Dest, Key: key, Value: value, Headers: make([]kgo.RecordHeader, len(headers))}
	for i, h := range headers {
		out.Headers[i] = kgo.RecordHeader{Key: h.Key, Value: h.Value}
	}
	out.Timestamp = r.At
	if t, err := r.Event.Timestamp(); err == nil && !t.IsZero() {
		out.Timestamp = t
	}
	if v := r.Event.Headers[event.HeaderTime]; len(v) > 0 {
		if ms, err := strconv.ParseInt(v[0], 10, 64); err == nil {
			out.Timestamp = time.UnixMilli(ms)
		}
	}
	return out
}

// classify decides whether an error of the broker is final for the record.
func (s *Sink) classify(topic string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return driver.Permanent("too-large", fmt.Errorf("produce to %s: %w", topic, err))
	case errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.InvalidTopicException), errors.Is(err, kerr.InvalidTimestamp), errors.Is(err, kerr.PolicyViolation):
		return driver.Permanent("rejected", fmt.Errorf("produce to %s: %w", topic, err))
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		s.forget(topic)
	}
	return fmt.Errorf("produce to %s: %w", topic, s.cfg.explain(topic, err))
}

// ensure makes sure of a topic once, creating it when that is asked for.
func (s *Sink) ensure(ctx context.Context, topic string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[topic] {
		return nil
	}
	if err := checkTopic(topic); err != nil {
		return driver.Permanent("rejected", err)
	}
	if s.cfg.CreateTopic {
		if err := s.create(ctx, topic); err != nil {
			return err
		}
	}
	if len(s.known) >= maxKnownTopics {
		clear(s.known)
	}
	s.known[topic] = true
	return nil
}

func (s *Sink) forget(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, topic)
}

func (s *Sink) create(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, topicWait)
	defer cancel()
	partitions, replicas := s.cfg.Partitions, s.cfg.Replicas
	if partitions == 0 {
		partitions = -1 // the brokers' default
	}
	if replicas == 0 {
		replicas = -1
	}
	_, err := kadm.NewClient(s.cl).CreateTopic(ctx, partitions, replicas, nil, topic)
	switch {
	case err == nil:
		s.Log.InfoContext(ctx, "kafka topic created", "topic", topic)
	case errors.Is(err, kerr.TopicAlreadyExists):
	default:
		return fmt.Errorf("create topic %s: %w", topic, s.cfg.explain(topic, err))
	}
	return nil
}
