package bridge_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kfake"
	"weft.dev/weft/bridge"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/kafka"
	"weft.dev/weft/bridge/sns"
	"weft.dev/weft/bridge/sns/snsfake"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/dlq"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
)

func cluster(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func amazon(t *testing.T) (s *snsfake.Server, url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = snsfake.New(snsfake.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, "http://" + l.Addr().String()
}

// run runs bridges until the test, or stop, ends them.
func run(t testing.TB, b *bus.Bus, cfgs ...bridge.Config) (s *bridge.Service, letters *dlq.Store, stop func()) {
	t.Helper()
	letters = dlq.New(b, 1, obs.Discard())
	s, err := bridge.New(cfgs, bridge.Deps{Scope: obs.Discard(), Site: b.Site(), Mesh: b, DeadLetters: letters})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, letters, stop
}

// collect reads n events of a pattern from the mesh.
// patience is how long a step may take on a busy machine.
const patience = 2 * time.Minute

func collect(t *testing.T, b *bus.Bus, pattern string, n int) []event.Stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out []event.Stored
	err := b.Read(ctx, bus.ReadConfig{Patterns: []string{pattern}}, func(s event.Stored) error {
		if out = append(out, s); len(out) == n {
			cancel()
		}
		return nil
	})
	if len(out) < n {
		t.Fatalf("read %d of %d events of %s: %v", len(out), n, pattern, err)
	}
	return out
}

const words = "aZ09 .-_~%\"'<>&;=+/\\:äß€🚚中"

func randomText(r *rand.Rand, n int) string {
	all := []rune(words)
	var b strings.Builder
	for range 1 + r.IntN(n) {
		b.WriteRune(all[r.IntN(len(all))])
	}
	return strings.TrimSpace(b.String()) + "x"
}

// randomEvent has every attribute now and then, text and bytes of any kind.
func randomEvent(r *rand.Rand, i int) event.Event {
	e := event.Event{ID: fmt.Sprintf("%d/%s", i, randomText(r, 5)), Source: "/shop/" + fmt.Sprint(i), Type: randomText(r, 10), Time: "2026-03-04T05:06:07.123456789+02:00"}
	maybe := func(set func()) {
		if r.IntN(3) > 0 {
			set()
		}
	}
	maybe(func() { e.Subject = randomText(r, 20) })
	maybe(func() { e.DataSchema = "https://example.com/s?a=" + fmt.Sprint(i) })
	maybe(func() { e.SetExtension("correlationid", randomText(r, 20)) })
	maybe(func() { e.SetExtension("causationid", randomText(r, 20)) })
	maybe(func() { e.SetExtension("traceparent", fmt.Sprintf("00-%032x-%016x-01", i+1, i+1)) })
	maybe(func() { e.SetExtension("tracestate", "a=1,b=2") })
	maybe(func() { e.SetExtension("partitionkey", randomText(r, 8)) })
	for j := range r.IntN(8) {
		e.SetExtension(fmt.Sprintf("ext%d", j), randomText(r, 12))
	}
	maybe(func() { e.Headers = map[string][]string{"X-One": {randomText(r, 9)}, "X-Many": {"1", "2", "1"}} })
	switch r.IntN(5) {
	case 0:
		e.DataContentType, e.Data = "application/json", []byte(`{"größe": [1, 2.50, "<&>"], "s":"`+strings.ReplaceAll(strings.ReplaceAll(randomText(r, 30), `\`, ``), `"`, ``)+`"}`)
	case 1:
		e.DataContentType, e.Data = "text/plain; charset=utf-8", []byte(randomText(r, 200)+"\r\n\ttail")
	case 2:
		e.DataContentType, e.Data = "application/octet-stream", make([]byte, 1+r.IntN(300))
		for k := range e.Data {
			e.Data[k] = byte(r.UintN(256))
		}
	case 3:
		e.Data = []byte{0}
	}
	return e
}

// roundTrip carries random events out of a mesh and back in and compares.
func roundTrip(t *testing.T, b *bus.Bus, out, in bridge.Config) {
	r := rand.New(rand.NewPCG(1, 2))
	const n = 200
	sent := map[string]event.Event{}
	var pubs []bus.Publication
	for i := range n {
		e := randomEvent(r, i)
		sent[e.Key()] = e
		pubs = append(pubs, bus.Publication{Subject: "orders.created", Event: e})
	}
	for i, res := range b.PublishAll(t.Context(), pubs) {
		if res.Err != nil {
			t.Fatalf("publish %d: %v", i, res.Err)
		}
	}
	run(t, b, out, in)
	for _, got := range collect(t, b, "back.>", n) {
		want, ok := sent[got.Key()]
		if !ok {
			t.Errorf("came twice or was never sent: %s", got.Key())
			continue
		}
		delete(sent, got.Key())
		path := got.Event.Path()
		delete(got.Extensions, event.ExtPath)
		delete(got.Headers, event.HeaderTime) // the record's own
		if d := cmp.Diff(want, got.Event, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("event %s (-sent +back):\n%s", got.Key(), d)
		}
		if p := strings.Join(path, " "); p != "test/"+out.Name+" test/"+in.Name {
			t.Errorf("path = %q", p)
		}
	}
}

func TestKafkaRoundTrip(t *testing.T) {
	b := wefttest.Node(t)
	c := kafka.Cluster{Brokers: cluster(t, kfake.SeedTopics(3, "out.created")).ListenAddrs()}
	roundTrip(t, b,
		bridge.Config{Name: "to-kafka", From: bridge.From{Mesh: &bridge.MeshSource{Subjects: []string{"orders.>"}}}, To: bridge.To{Kafka: &kafka.SinkConfig{Cluster: c, Topic: driver.MustParse("out.{{subject 1}}")}}},
		bridge.Config{Name: "from-kafka", From: bridge.From{Kafka: &kafka.SourceConfig{Cluster: c, Topics: []string{"out.created"}}}, To: bridge.To{Mesh: &bridge.MeshSink{Subject: driver.MustParse("back.{{topic}}")}}},
	)
}

func awsConfig(url string) sns.AWS {
	return sns.AWS{Region: "us-east-1", Endpoint: url, AccessKey: "key", SecretKey: conf.Secret("secret")}
}

func TestSNSRoundTrip(t *testing.T) {
	for _, tt := range []struct {
		name, topic, queue string
		raw                bool
	}{
		{"raw", "orders", "orders-q", true},
		{"envelope", "orders", "orders-q", false},
		{"fifo", "orders.fifo", "orders-q.fifo", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := wefttest.Node(t)
			fake, url := amazon(t)
			if err := fake.Pipe(tt.topic, tt.queue, tt.raw); err != nil {
				t.Fatal(err)
			}
			roundTrip(t, b,
				bridge.Config{Name: "to-sns", From: bridge.From{Mesh: &bridge.MeshSource{Subjects: []string{"orders.>"}}}, To: bridge.To{SNS: &sns.SinkConfig{AWS: awsConfig(url), TopicARN: fake.TopicARN(tt.topic)}}},
				bridge.Config{Name: "from-sqs", From: bridge.From{SQS: &sns.SourceConfig{AWS: awsConfig(url), QueueURL: fake.QueueURL(url, tt.queue)}}, To: bridge.To{Mesh: &bridge.MeshSink{Subject: driver.MustParse("back.all")}}},
			)
			wefttest.Eventually(t, 10*time.Second, "an empty queue", func() bool { return fake.Stored(tt.queue) == 0 })
		})
	}
}
