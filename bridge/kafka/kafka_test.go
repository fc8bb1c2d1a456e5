package kafka_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"weft.dev/weft/bridge/bridgetest"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/kafka"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/wefttest"
)

const topic = "orders"

func cluster(t testing.TB, opts ...kfake.Opt) (*kfake.Cluster, kafka.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, kafka.Cluster{Brokers: c.ListenAddrs(), Cluster: "test"}
}

func client(t testing.TB, c kafka.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.Brokers...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// records reads all of a topic.
func records(t testing.TB, c kafka.Cluster, topic string) []*kgo.Record {
	t.Helper()
	cl := client(t, c, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ends.Each(func(o kadm.ListedOffset) { n += int(o.Offset) })
	var out []*kgo.Record
	for len(out) < n {
		f := cl.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			t.Fatalf("read %d of %d records: %v", len(out), n, err)
		}
		out = append(out, f.Records()...)
	}
	return out
}

func decode(t testing.TB, r *kgo.Record) event.Event {
	t.Helper()
	in := event.KafkaRecord{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		in.Headers = append(in.Headers, event.KafkaHeader{Key: h.Key, Value: h.Value})
	}
	e, err := event.FromKafka(in)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestSinkConformance(t *testing.T) {
	bridgetest.Sink(t, func(t *testing.T) bridgetest.SinkRig {
		fake, c := cluster(t, kfake.SeedTopics(3, topic))
		var stalled atomic.Bool
		return bridgetest.SinkRig{
			New: func(d driver.Deps) driver.Sink {
				return kafka.NewSink(kafka.SinkConfig{Cluster: c, Topic: driver.MustParse(topic)}, d)
			},
			Dest:    topic,
			Ordered: true,
			Read: func(t testing.TB) []event.Event {
				var out []event.Event
				for _, r := range records(t, c, topic) {
					out = append(out, decode(t, r))
				}
				return out
			},
			TooLarge: event.Event{ID: "large", Source: "/test", Type: "test", Data: make([]byte, 17<<20)},
			Stall: func() func() {
				stalled.Store(true)
				fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
					if !stalled.Load() {
						return nil, nil, false
					}
					fake.KeepControl()
					return nil, errors.New("stalled"), true
				})
				return func() { stalled.Store(false) }
			},
		}
	})
}

func TestSourceConformance(t *testing.T) {
	bridgetest.Source(t, func(t *testing.T) bridgetest.SourceRig {
		_, c := cluster(t, kfake.SeedTopics(3, topic))
		producer := client(t, c, kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
		return bridgetest.SourceRig{
			New: func(d driver.Deps) driver.Source {
				return kafka.NewSource(kafka.SourceConfig{Cluster: c, Topics: []string{topic}}, d)
			},
			Ordered: true,
			Put: func(t testing.TB, events []event.Event) {
				for _, e := range events {
					headers, key, value := e.Kafka()
					r := &kgo.Record{Topic: topic, Key: key, Value: value}
					for _, h := range headers {
						r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
					}
					if err := producer.ProduceSync(t.Context(), r).FirstErr(); err != nil {
						t.Fatal(err)
					}
				}
			},
		}
	})
}

// A broker that stores a batch and then says it did not must not double it.
func TestSinkSurvivesLostAnswers(t *testing.T) {
	fake, c := cluster(t, kfake.SeedTopics(1, topic))
	d, _ := bridgetest.Deps(t)
	s := kafka.NewSink(kafka.SinkConfig{Cluster: c, Topic: driver.MustParse(topic)}, d)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	failures := 0
	fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if failures++; failures > 3 {
			return nil, nil, false
		}
		fake.KeepControl()
		return nil, errors.New("cut"), true
	})
	if errs := s.Write(t.Context(), bridgetest.Records(topic, bridgetest.Events(100))); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	if got := records(t, c, topic); len(got) != 100 {
		t.Errorf("stored %d records, want 100", len(got))
	}
}

func TestSinkWritesWhatAConsumerExpects(t *testing.T) {
	_, c := cluster(t, kfake.SeedTopics(1, topic))
	d, _ := bridgetest.Deps(t)
	s := kafka.NewSink(kafka.SinkConfig{Cluster: c, Topic: driver.MustParse(topic)}, d)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	recs := []*driver.Record{
		{Dest: topic, Event: event.Event{
			ID: "1", Source: "/shop", Type: "größe", Time: "2026-01-02T03:04:05Z", DataContentType: "application/json", Data: []byte(`{}`),
			Extensions: map[string]string{"partitionkey": "p1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			Headers:    map[string][]string{"X-Many": {"a", "b"}},
		}},
		{Dest: topic, Event: event.Event{ID: "2", Source: "/shop", Type: "t", Headers: map[string][]string{event.HeaderTombstone: {"1"}, event.HeaderKey: {"k2"}, event.HeaderTime: {"1700000000123"}}}},
		{Dest: topic, Key: []byte("from template"), Event: event.Event{ID: "3", Source: "/shop", Type: "t", Extensions: map[string]string{"partitionkey": "p"}}},
	}
	if errs := s.Write(t.Context(), recs); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	got := records(t, c, topic)
	headers := map[string]string{}
	for _, h := range got[0].Headers {
		headers[h.Key] += string(h.Value)
	}
	for name, want := range map[string]string{
		"ce_id": "1", "ce_source": "/shop", "ce_type": "größe", "ce_specversion": "1.0", "ce_time": "2026-01-02T03:04:05Z",
		"content-type": "application/json", "X-Many": "ab", "ce_traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		if headers[name] != want {
			t.Errorf("header %s = %q, want %q", name, headers[name], want)
		}
	}
	if string(got[0].Key) != "p1" || got[0].Timestamp.UnixMilli() != 1767323045000 {
		t.Errorf("key %q, time %v", got[0].Key, got[0].Timestamp)
	}
	if got[1].Value != nil || string(got[1].Key) != "k2" || got[1].Timestamp.UnixMilli() != 1700000000123 {
		t.Errorf("tombstone: value %v, key %q, time %v", got[1].Value, got[1].Key, got[1].Timestamp)
	}
	if string(got[2].Key) != "from template" || got[2].Value == nil {
		t.Errorf("key %q, value %v", got[2].Key, got[2].Value)
	}
}

func TestSourceReadsForeignRecords(t *testing.T) {
	_, c := cluster(t, kfake.SeedTopics(1, topic))
	producer := client(t, c)
	at := time.UnixMilli(1700000000123)
	err := producer.ProduceSync(t.Context(),
		&kgo.Record{Topic: topic, Key: []byte("k\x00\xff"), Value: []byte("\x00\x00\x00\x00\x07avro"), Timestamp: at, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte{0xff}}, {Key: "empty"}}},
		&kgo.Record{Topic: topic, Key: []byte("gone"), Timestamp: at},
		&kgo.Record{Topic: topic, Value: []byte(`{"specversion":"1.0","id":"s1","source":"/s","type":"t","data":{"a":1}}`), Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/cloudevents+json; charset=UTF-8")}}},
		&kgo.Record{Topic: topic, Value: []byte(`{broken`), Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/cloudevents+json")}}},
	).FirstErr()
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, kafka.SourceConfig{Cluster: c, Topics: []string{topic}}, 4)
	e := got[0].Event
	if e.ID != "orders/0/0" || e.Source != "/kafka/test/orders" || string(e.Data) != "\x00\x00\x00\x00\x07avro" || e.Headers[event.HeaderTime][0] != "1700000000123" {
		t.Errorf("plain record = %+v", e)
	}
	if hs, key, _ := e.Kafka(); string(key) != "k\x00\xff" || len(hs) < 3 {
		t.Errorf("back as a record: key %q, headers %v", key, hs)
	}
	if e := got[1].Event; e.Headers[event.HeaderTombstone] == nil || got[1].Position != "0/1" || !got[1].At.Equal(at) {
		t.Errorf("tombstone = %+v", got[1])
	}
	if e := got[2].Event; e.ID != "s1" || string(e.Data) != `{"a":1}` {
		t.Errorf("structured = %+v", e)
	}
	if reason, final := driver.Reason(got[3].Err); !final || reason != "bad-event" || string(got[3].Event.Data) != "{broken" {
		t.Errorf("broken structured = %+v", got[3])
	}
}

func read(t *testing.T, cfg kafka.SourceConfig, n int) []*driver.Record {
	t.Helper()
	d, _ := bridgetest.Deps(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out []*driver.Record
	err := kafka.NewSource(cfg, d).Run(ctx, func(_ context.Context, b driver.Batch) error {
		out = append(out, b.Records...)
		b.Done(nil)
		if len(out) >= n {
			cancel()
		}
		return nil
	})
	if err != nil || len(out) < n {
		t.Fatalf("read %d of %d records: %v", len(out), n, err)
	}
	return out
}

func TestCreateTopic(t *testing.T) {
	fake, c := cluster(t)
	d, _ := bridgetest.Deps(t)
	s := kafka.NewSink(kafka.SinkConfig{Cluster: c, Topic: driver.MustParse("new.{{subject 1}}"), CreateTopic: true, Partitions: 4, Replicas: 1}, d)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if errs := s.Write(t.Context(), bridgetest.Records("new.created", bridgetest.Events(3))); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	if info := fake.TopicInfo("new.created"); info == nil {
		t.Error("no topic was created")
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	_, c := cluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "admin", "right"), kfake.SeedTopics(1, topic))
	d, reported := bridgetest.Deps(t)
	login := func(pass string) kafka.Cluster {
		c := c
		c.SASL = kafka.SASL{Mechanism: "PLAIN", User: "admin", Password: conf.Secret(pass)}
		return c
	}
	tests := []struct {
		name  string
		check interface{ Check(context.Context) error }
		want  string
	}{
		{"right", kafka.NewSink(kafka.SinkConfig{Cluster: login("right"), Topic: driver.MustParse(topic)}, d), ""},
		{"wrong password", kafka.NewSink(kafka.SinkConfig{Cluster: login("wrong"), Topic: driver.MustParse(topic)}, d), `user "admin" (sasl "PLAIN")`},
		{"unknown topic", kafka.NewSink(kafka.SinkConfig{Cluster: login("right"), Topic: driver.MustParse("nope")}, d), `topic "nope" does not exist at 127.0.0.1:`},
		{"unknown source topic", kafka.NewSource(kafka.SourceConfig{Cluster: login("right"), Topics: []string{topic, "nope"}}, d), `topic "nope" does not exist`},
		{"nobody there", kafka.NewSource(kafka.SourceConfig{Cluster: kafka.Cluster{Brokers: []string{"127.0.0.1:1"}}, Topics: []string{topic}}, d), "connect to kafka 127.0.0.1:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.check.Check(t.Context())
			if (tt.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("check: %v, want %q", err, tt.want)
			}
		})
	}
	if reported() == nil {
		t.Error("nothing was reported about the broker that is not there")
	}
}

func TestUnknownTopicIsRetriable(t *testing.T) {
	fake, c := cluster(t)
	d, _ := bridgetest.Deps(t)
	s := kafka.NewSink(kafka.SinkConfig{Cluster: c, Topic: driver.MustParse("later")}, d)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	recs := bridgetest.Records("later", bridgetest.Events(1))
	errs := s.Write(t.Context(), recs)
	if errs == nil || !errors.Is(errs[0], kerr.UnknownTopicOrPartition) || !strings.Contains(errs[0].Error(), `topic "later" does not exist`) {
		t.Fatalf("errors = %v", errs)
	}
	if _, final := driver.Reason(errs[0]); final {
		t.Error("an unknown topic is final, though an operator can create it")
	}
	if err := fake.CreateTopic("later", 1, nil); err != nil {
		t.Fatal(err)
	}
	if errs := s.Write(t.Context(), recs); errs != nil {
		t.Errorf("after the topic was created: %v", errs[0])
	}
}

// Two members share the partitions while one joins and leaves: every record is
// stored, and within a key none before an earlier one's first copy.
func TestRebalance(t *testing.T) {
	_, c := cluster(t, kfake.SeedTopics(6, topic))
	const n = 2000
	producer := client(t, c)
	got := make(chan event.Event, 4*n)
	member := func(ctx context.Context) <-chan error {
		d, _ := bridgetest.Deps(t)
		done := make(chan error, 1)
		go func() {
			done <- kafka.NewSource(kafka.SourceConfig{Cluster: c, Topics: []string{topic}, Group: "g"}, d).Run(ctx, func(_ context.Context, b driver.Batch) error {
				for _, r := range b.Records {
					got <- r.Event
				}
				b.Done(nil)
				return nil
			})
		}()
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := member(ctx)
	second, leave := context.WithCancel(t.Context())
	seen := map[string]int{}
	var other <-chan error
	for i := range n {
		r := &kgo.Record{Topic: topic, Key: []byte(strconv.Itoa(i % 17)), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte(strconv.Itoa(i))}}}
		if err := producer.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		switch i {
		case 200:
			other = member(second)
		case 1500:
			leave()
			if err := <-other; err != nil {
				t.Error(err)
			}
		}
	}
	last := map[int]int{}
	deadline := time.After(30 * time.Second)
	for len(seen) < n {
		select {
		case e := <-got:
			i, _ := strconv.Atoi(e.ID)
			if seen[e.ID]++; seen[e.ID] == 1 {
				if before, ok := last[i%17]; ok && i < before {
					t.Errorf("record %d first came after %d", i, before)
				}
				last[i%17] = i
			}
		case <-deadline:
			t.Fatalf("%d of %d records came", len(seen), n)
		}
	}
	cancel()
	if err := <-first; err != nil {
		t.Error(err)
	}
	leave()
}

// opened is a sink that is connected.
func opened(t *testing.T, cfg kafka.SinkConfig) *kafka.Sink {
	t.Helper()
	d, _ := bridgetest.Deps(t)
	s := kafka.NewSink(cfg, d)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Records that are too large only together are no dead letters.
func TestSinkPartsWhatIsTooLargeTogether(t *testing.T) {
	_, c := cluster(t)
	limit := "20000"
	cl := client(t, c)
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": &limit}, topic); err != nil {
		t.Fatal(err)
	}
	s := opened(t, kafka.SinkConfig{Cluster: c, Topic: driver.MustParse(topic), Compression: "none"})
	events := bridgetest.Events(60)
	for i := range events {
		events[i].Data = make([]byte, 1000)
	}
	events[30].Data = make([]byte, 30_000)
	errs := s.Write(t.Context(), bridgetest.Records(topic, events))
	for i, err := range errs {
		if reason, final := driver.Reason(err); final != (i == 30) || final && reason != "too-large" {
			t.Errorf("event %d: %v", i, err)
		}
	}
	if got := records(t, c, topic); len(errs) != 60 || len(got) != 59 {
		t.Errorf("%d errors, stored %d records, want 60 and 59", len(errs), len(got))
	}
}

// An event must not overtake one whose topic could not be made yet.
func TestSinkKeepsOrderWhileATopicIsMade(t *testing.T) {
	fake, c := cluster(t)
	s := opened(t, kafka.SinkConfig{Cluster: c, Topic: driver.MustParse(topic), CreateTopic: true})
	asked := 0
	fake.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		if asked++; asked > 1 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		resp.Topics = append(resp.Topics, kmsg.CreateTopicsResponseTopic{Topic: topic, ErrorCode: kerr.PolicyViolation.Code})
		return resp, nil, true
	})
	recs := bridgetest.Records(topic, bridgetest.Events(3))
	if errs := s.Write(t.Context(), recs); len(errs) != 3 || errs[0] == nil || errs[1] == nil || errs[2] == nil {
		t.Fatalf("errors = %v, want all to wait for the first", errs)
	}
	if errs := s.Write(t.Context(), recs); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	if got := records(t, c, topic); len(got) != 3 {
		t.Errorf("stored %d records, want 3", len(got))
	}
}

// A missing topic is named while it is missing, also beside one that is read,
// and forgotten when it is there, also while it is empty.
func TestSourceWaitsForAMissingTopic(t *testing.T) {
	_, c := cluster(t, kfake.SeedTopics(1, topic))
	d, reported := bridgetest.Deps(t)
	s := kafka.NewSource(kafka.SourceConfig{Cluster: c, Topics: []string{topic, "later"}}, d)
	ctx, cancel := context.WithCancel(t.Context())
	var read atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(_ context.Context, b driver.Batch) error {
			read.Add(int64(len(b.Records)))
			b.Done(nil)
			return nil
		})
	}()
	says := func(want string) bool {
		err := reported()
		return want == "" && err == nil || want != "" && err != nil && strings.Contains(err.Error(), want)
	}
	wefttest.Eventually(t, 10*time.Second, "the topic is named", func() bool { return says(`topic "later" does not exist`) })
	producer := client(t, c)
	if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 20*time.Second, "the other topic is read", func() bool { return read.Load() == 1 })
	if !says(`topic "later" does not exist`) {
		t.Errorf("reported %v while a topic is missing", reported())
	}
	if _, err := kadm.NewClient(producer).CreateTopic(t.Context(), 1, 1, nil, "later"); err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 10*time.Second, "nothing is missing", func() bool { return says("") })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
