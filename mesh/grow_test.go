package mesh_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
	"weft.dev/weft/mesh/growth"
)

// kept is what a stream holds of one message.
type kept struct {
	Seq     uint64
	At      time.Time
	Subject string
	Data    string
	ID      string
}

// messages reads a stream message by message, as it is.
func messages(t *testing.T, js jetstream.JetStream, name string) []kept {
	t.Helper()
	s, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var out []kept
	st := s.CachedInfo().State
	for seq := st.FirstSeq; seq <= st.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(m.Subject, "weft.off.") {
			continue // a position is replaced by the next
		}
		out = append(out, kept{m.Sequence, m.Time, m.Subject, string(m.Data), m.Header.Get("ce-id")})
	}
	return out
}

func grow(t *testing.T, c *wefttest.Cluster, d mesh.Deps) mesh.Grown {
	t.Helper()
	g, err := mesh.Grow(t.Context(), c.Config(0), d, func(growth.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// identified is an event with an id of the caller's.
func identified(subject, id string) bus.Publication {
	e := event.Event{ID: id, Data: []byte("x")}
	e.Fill(event.Defaults{Subject: subject, Source: "/test", Now: time.Now()})
	return bus.Publication{Subject: subject, Event: e}
}

// A site of one node with a history, consumers, a bucket and a link becomes a
// site of three. All of it is what it was, and goes on.
func TestSiteGrows(t *testing.T) {
	link := func(name string, urls ...string) mesh.Link {
		return mesh.Link{Name: name, URLs: urls, Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}
	}
	listen := []string{wefttest.FreeAddr(t), wefttest.FreeAddr(t), wefttest.FreeAddr(t)}
	var urls []string
	for _, l := range listen {
		urls = append(urls, "nats-leaf://"+l)
	}
	first := wefttest.Deps(t, "a")
	cfgA := local()
	cfgA.Links.Listen, cfgA.Links.Sites = listen[0], []mesh.Link{link("b")}
	a, stop := wefttest.StartStop(t, cfgA, first)
	cfgB := local()
	cfgB.Links.Sites = []mesh.Link{link("a", urls...)}
	b := wefttest.Start(t, cfgB, wefttest.Deps(t, "b"))

	for i := range 10 {
		publish(t, a.Bus(), fmt.Sprintf("orders.%d.created", i), fmt.Sprint("a", i), 300)
		publish(t, b.Bus(), fmt.Sprintf("stock.%d.moved", i), fmt.Sprint("b", i), 50)
	}
	level(t, a.Bus(), b.Bus(), 3500)
	js := a.Bus().JetStream()
	unacked := furnish(t, js)
	before := map[string][]kept{}
	for _, name := range []string{bus.Stream, "KV_prices", "OWN"} {
		before[name] = messages(t, js, name)
	}
	epoch := info(t, a.Bus()).Epoch
	stop()

	first.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	c := wefttest.PrepareCluster(t, first, 3, func(i int, cfg *mesh.Config) {
		cfg.Links.Listen, cfg.Links.Sites = listen[i], []mesh.Link{link("b")}
	})
	if g := grow(t, c, first); g.Streams < 4 || g.Messages < 3500 {
		t.Errorf("grown: %+v", g)
	}
	publish(t, b.Bus(), "stock.moved", "while", 100) // b goes on meanwhile
	start := time.Now()
	c.StartAll()
	t.Logf("ready after %s", time.Since(start))

	unchanged(t, c.Nodes[1], before, epoch)
	again := c.Nodes[0].Bus().PublishAll(t.Context(), []bus.Publication{identified("orders.9.created", "a9-299")})[0]
	if again.Err != nil || !again.Ack.Duplicate {
		t.Errorf("an event published again after the growth is stored twice: %+v", again)
	}
	for i, n := range c.Nodes {
		publish(t, n.Bus(), "orders.new", fmt.Sprint("new", i), 50)
	}
	publish(t, b.Bus(), "stock.moved", "after", 100)
	level(t, c.Nodes[2].Bus(), b.Bus(), 3850)

	c.Stop(0) // the node that had the history
	left := c.Nodes[1:]
	publish(t, left[0].Bus(), "orders.new", "without", 50)
	level(t, left[1].Bus(), b.Bus(), 3900)
	rest(t, left[0].Bus().JetStream(), unacked, 3000+150+50)
	prices(t, left[1].Bus().JetStream())
	if _, err := os.Stat(filepath.Join(first.Dir, "store-before-growth")); err != nil {
		t.Errorf("the old store is not kept: %v", err)
	}
	if _, err := os.Stat(filepath.Join(first.Dir, "growth")); err == nil {
		t.Error("the copies of the streams are left behind")
	}
}

// furnish makes a consumer that has acknowledged half of what it got, a bucket,
// and a client's own stream with a gap. It returns what is not acknowledged.
func furnish(t *testing.T, js jetstream.JetStream) (unacked map[uint64]bool) {
	t.Helper()
	cons, err := js.CreateConsumer(t.Context(), bus.Stream, jetstream.ConsumerConfig{
		Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "ev.a.>", AckWait: 2 * time.Minute, MaxAckPending: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	unacked = half(t, cons, 1000)
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "prices", History: 5})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if _, err := kv.PutString(t.Context(), fmt.Sprint("k", i%10), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OWN", Subjects: []string{"own.>"}}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := js.Publish(t.Context(), "own.x", []byte(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	own, err := js.Stream(t.Context(), "OWN")
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(40); seq < 60; seq++ { // a gap
		if err := own.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	return unacked
}

// prices looks at the bucket that furnish made.
func prices(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	kv, err := js.KeyValue(t.Context(), "prices")
	if err != nil {
		t.Fatal(err)
	}
	for i := 20; i < 30; i++ {
		if v, err := kv.Get(t.Context(), fmt.Sprint("k", i-20)); err != nil || string(v.Value()) != fmt.Sprint(i) {
			t.Errorf("k%d = %v, %v", i-20, v, err)
		}
	}
}

// unchanged wants streams as they were, on three nodes.
func unchanged(t *testing.T, n *mesh.Node, before map[string][]kept, epoch string) {
	t.Helper()
	js := n.Bus().JetStream()
	if got := info(t, n.Bus()).Epoch; got != epoch || epoch == "" {
		t.Errorf("epoch is %q, was %q", got, epoch)
	}
	for name, want := range before {
		got := messages(t, js, name)
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("stream %s has %d messages and not the %d it had", name, len(got), len(want))
		}
	}
	for _, name := range []string{bus.Stream, "KV_prices", "OWN"} {
		s, err := js.Stream(t.Context(), name)
		if err != nil || s.CachedInfo().Config.Replicas != 3 {
			t.Errorf("stream %s is not on three nodes: %v", name, err)
		}
	}
}

func info(t *testing.T, b *bus.Bus) bus.StreamInfo {
	t.Helper()
	i, err := b.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// half takes messages, acknowledges every second one and returns the sequences
// of the others.
func half(t *testing.T, cons jetstream.Consumer, count int) map[uint64]bool {
	t.Helper()
	unacked := map[uint64]bool{}
	batch, err := cons.Fetch(count, jetstream.FetchMaxWait(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		md, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if md.Sequence.Consumer%2 == 0 {
			unacked[md.Sequence.Stream] = true
			continue
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return unacked
}

// rest takes what a consumer has not acknowledged yet: of the messages delivered
// before the growth those in unacked, again, and what came behind them, once.
func rest(t *testing.T, js jetstream.JetStream, unacked map[uint64]bool, events int) {
	t.Helper()
	cons, err := js.Consumer(t.Context(), bus.Stream, "billing")
	if err != nil {
		t.Fatal(err)
	}
	i, err := cons.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i.NumAckPending != len(unacked) {
		t.Errorf("%d messages wait for an ack, want %d", i.NumAckPending, len(unacked))
	}
	seen := map[uint64]int{}
	for want := events - 2*len(unacked); want > 0; want-- {
		m, err := cons.Next(jetstream.FetchMaxWait(20 * time.Second))
		if err != nil {
			t.Fatalf("%d are missing: %v", want, err)
		}
		md, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		seen[md.Sequence.Stream]++
		if md.NumDelivered > 1 {
			want++
			if !unacked[md.Sequence.Stream] {
				t.Errorf("message %d was acknowledged and comes again", md.Sequence.Stream)
			}
		}
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	for seq, n := range seen {
		if n > 1 {
			t.Errorf("message %d came %d times", seq, n)
		}
	}
}
