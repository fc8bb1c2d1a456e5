package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
)

const (
	maxPoll        = 1000             // records of one poll
	fetchMaxBytes  = 16 << 20         // bytes of one fetch, all partitions
	fetchPartition = 1 << 20          // bytes of one fetch of a partition
	fetchMaxWait   = time.Second      // of an empty fetch
	commitInterval = time.Second      // how often stored offsets are committed
	revokeGrace    = 20 * time.Second // for batches in work when a partition moves on; below the rebalance timeout
	commitTimeout  = 5 * time.Second
	findInterval   = 3 * time.Second // how often a missing topic is looked for
)

// SourceConfig is what is read.
type SourceConfig struct {
	Cluster `yaml:",inline"`
	Topics  []string `yaml:"topics" doc:"Topics to read"`
	Group   string   `yaml:"group" doc:"Consumer group; nodes of a site share it; empty: weft-<bridge>"`
	Start   string   `yaml:"start" doc:"Where a new group begins: all (the oldest record) or new; empty: all"`
}

// Validate names every key that cannot work.
func (c SourceConfig) Validate() error {
	errs := []error{c.Cluster.Validate()}
	if len(c.Topics) == 0 {
		errs = append(errs, conf.Field("topics", "want at least one topic"))
	}
	for i, t := range c.Topics {
		if err := checkTopic(t); err != nil {
			errs = append(errs, conf.Field(conf.Item("topics", i), err.Error()))
		}
	}
	if c.Start != "" {
		errs = append(errs, conf.OneOf("start", c.Start, "all", "new"))
	}
	return errors.Join(errs...)
}

// Source reads topics as a member of a consumer group. A lane is a partition.
type Source struct {
	cfg SourceConfig
	driver.Deps

	missing atomic.Bool // a topic does not exist

	mu    sync.Mutex // guards lanes and lag
	lanes map[partition]*lane
	lag   map[partition]int64
}

type partition struct {
	topic string
	n     int32
}

// lane is a partition while this member owns it.
type lane struct {
	ctx     context.Context // ends when the partition is lost
	cancel  context.CancelFunc
	closing bool
	work    sync.WaitGroup // batches in the engine
}

// NewSource returns a source that is not connected.
func NewSource(cfg SourceConfig, d driver.Deps) *Source {
	if cfg.Group == "" {
		cfg.Group = "weft-" + d.Bridge
	}
	return &Source{cfg: cfg, Deps: d}
}

// Info describes the source.
func (s *Source) Info() driver.Info {
	return driver.Info{System: "kafka", Text: "kafka " + strings.Join(s.cfg.Topics, ", ") + " (" + s.cfg.address() + ")"}
}

// Run implements driver.Source.
func (s *Source) Run(ctx context.Context, emit driver.Emit) error {
	s.mu.Lock()
	s.lanes, s.lag = map[partition]*lane{}, map[partition]int64{}
	s.mu.Unlock()
	cl, err := s.client(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	look, found := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() { s.find(look, cl) })
	err = s.poll(ctx, cl, emit)
	found()
	looking.Wait()
	s.finish(context.WithoutCancel(ctx), cl)
	return err
}

// find reports topics that do not exist until they do. The client itself waits
// for them without a word.
func (s *Source) find(ctx context.Context, cl *kgo.Client) {
	defer s.missing.Store(false)
	for {
		err := s.cfg.exists(ctx, cl, s.cfg.Topics...)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if s.missing.Swap(false) {
				s.Report(nil)
			}
			return
		}
		s.missing.Store(true)
		s.Report(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(findInterval):
		}
	}
}

// works is Report, but reading does not work while a topic is missing.
func (s *Source) works(err error) {
	if err != nil || !s.missing.Load() {
		s.Report(err)
	}
}

func (s *Source) client(ctx context.Context) (*kgo.Client, error) {
	d := s.Deps
	d.Report = s.works
	opts, err := s.cfg.options(d)
	if err != nil {
		return nil, err
	}
	start := kgo.NewOffset().AtStart()
	if s.cfg.Start == "new" {
		start = kgo.NewOffset().AtEnd()
	}
	cl, err := kgo.NewClient(append(opts,
		kgo.ConsumeTopics(s.cfg.Topics...),
		kgo.ConsumerGroup(s.cfg.Group),
		kgo.ConsumeResetOffset(start),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(fetchMaxWait),
		kgo.FetchMaxBytes(fetchMaxBytes),
		kgo.FetchMaxPartitionBytes(fetchPartition),
		kgo.AutoCommitMarks(), // marked in done, so only what is stored is committed
		kgo.AutoCommitInterval(commitInterval),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) { s.assigned(ctx, got) }),
		kgo.OnPartitionsRevoked(s.revoked),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, gone map[string][]int32) { s.lost(gone) }),
	)...)
	if err != nil {
		return nil, fmt.Errorf("set up kafka client: %w", err)
	}
	return cl, nil
}

// poll reads until ctx ends. Emitting blocks when the engine is full.
func (s *Source) poll(ctx context.Context, cl *kgo.Client, emit driver.Emit) error {
	for {
		fetches := cl.PollRecords(ctx, maxPoll)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return nil
		}
		failed := false
		fetches.EachError(func(topic string, _ int32, err error) {
			failed = true
			s.Report(fmt.Errorf("read topic %s: %w", topic, s.cfg.explain(topic, err)))
		})
		if !failed && fetches.NumRecords() > 0 {
			s.works(nil)
		}
		var err error
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if err == nil && len(p.Records) > 0 {
				err = s.emit(ctx, cl, p, emit)
			}
		})
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func (s *Source) emit(ctx context.Context, cl *kgo.Client, p kgo.FetchTopicPartition, emit driver.Emit) error {
	key := partition{p.Topic, p.Partition}
	last := p.Records[len(p.Records)-1]
	s.mu.Lock()
	l, ok := s.lanes[key]
	if !ok || l.closing {
		s.mu.Unlock()
		return nil // no longer ours: its new owner reads these again
	}
	l.work.Add(1)
	s.lag[key] = p.HighWatermark - last.Offset - 1
	s.mu.Unlock()
	b := driver.Batch{
		Context: l.ctx, Lane: p.Topic + "/" + strconv.Itoa(int(p.Partition)),
		Records: make([]*driver.Record, len(p.Records)),
		Done: func(err error) {
			if err == nil {
				cl.MarkCommitRecords(last)
			}
			l.work.Done()
		},
	}
	for i, r := range p.Records {
		b.Records[i] = s.record(r)
	}
	if err := emit(ctx, b); err != nil {
		l.work.Done()
		return err
	}
	return nil
}

// record makes an event of a Kafka record. One that is no CloudEvent gets the
// type header's value or the topic as type; the engine may refine it.
func (s *Source) record(r *kgo.Record) *driver.Record {
	in := event.KafkaRecord{
		Cluster: s.cfg.name(), Topic: r.Topic, Partition: r.Partition, Offset: r.Offset,
		Key: r.Key, Value: r.Value, Time: r.Timestamp, Headers: make([]event.KafkaHeader, len(r.Headers)),
	}
	for i, h := range r.Headers {
		in.Headers[i] = event.KafkaHeader{Key: h.Key, Value: h.Value}
	}
	out := &driver.Record{Topic: r.Topic, Position: strconv.Itoa(int(r.Partition)) + "/" + strconv.FormatInt(r.Offset, 10), At: r.Timestamp}
	var err error
	if out.Event, err = event.FromKafka(in); err != nil {
		out.Err = driver.Permanent("bad-event", fmt.Errorf("decode %s/%s: %w", out.Topic, out.Position, err))
		in.Headers = nil // the bytes as they were, under an envelope of their own
		out.Event, _ = event.FromKafka(in)
	}
	return out
}

func (s *Source) assigned(ctx context.Context, got map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, ns := range got {
		for _, n := range ns {
			l := &lane{}
			l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
			s.lanes[partition{topic, n}] = l
		}
	}
}

// revoked lets the batches in work finish, so that the next owner begins after
// them, commits, and gives up what takes too long.
func (s *Source) revoked(ctx context.Context, cl *kgo.Client, gone map[string][]int32) {
	lanes := s.take(gone)
	grace := time.AfterFunc(revokeGrace, func() {
		for _, l := range lanes {
			l.cancel()
		}
	})
	defer grace.Stop()
	for _, l := range lanes {
		l.work.Wait()
		l.cancel()
	}
	s.commit(ctx, cl)
}

func (s *Source) lost(gone map[string][]int32) {
	for _, l := range s.take(gone) {
		l.cancel()
	}
}

// take closes lanes to new batches and forgets them.
func (s *Source) take(gone map[string][]int32) []*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*lane
	for topic, ns := range gone {
		for _, n := range ns {
			key := partition{topic, n}
			if l, ok := s.lanes[key]; ok {
				l.closing = true
				out = append(out, l)
				delete(s.lanes, key)
				delete(s.lag, key)
			}
		}
	}
	return out
}

// finish waits for the engine and commits what it stored.
func (s *Source) finish(ctx context.Context, cl *kgo.Client) {
	s.mu.Lock()
	lanes := make([]*lane, 0, len(s.lanes))
	for _, l := range s.lanes {
		l.closing = true
		lanes = append(lanes, l)
	}
	s.mu.Unlock()
	for _, l := range lanes {
		l.work.Wait()
		l.cancel()
	}
	s.commit(ctx, cl)
}

func (s *Source) commit(ctx context.Context, cl *kgo.Client) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	if err := cl.CommitMarkedOffsets(ctx); err != nil {
		s.Log.WarnContext(ctx, "kafka offsets not committed", "group", s.cfg.Group, "err", err)
	}
}

// Lag implements driver.Lagger: records that are not fetched yet, as of the last
// fetch of each partition.
func (s *Source) Lag(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, v := range s.lag {
		n += max(v, 0)
	}
	return n, nil
}

// Connect implements driver.Connector: it reaches a broker beside the group.
func (s *Source) Connect(ctx context.Context) error {
	cl, err := s.dial(ctx)
	if err == nil {
		cl.Close()
	}
	return err
}

// dial connects a client that reads nothing.
func (s *Source) dial(ctx context.Context) (*kgo.Client, error) {
	opts, err := s.cfg.options(s.Deps)
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("set up kafka client: %w", err)
	}
	if err := s.cfg.ping(ctx, cl); err != nil {
		cl.Close()
		return nil, err
	}
	return cl, nil
}

// Check implements driver.Source.
func (s *Source) Check(ctx context.Context) error {
	cl, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := s.cfg.exists(ctx, cl, s.cfg.Topics...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if _, err := kadm.NewClient(cl).FetchOffsets(ctx, s.cfg.Group); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return fmt.Errorf("read offsets of group %s: %w", s.cfg.Group, s.cfg.explain("", err))
	}
	return nil
}
