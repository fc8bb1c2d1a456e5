package webhook_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
)

// mortal is a service with a connection of its own that can be cut, which is
// what the death of the process looks like to the mesh: nothing that was not
// stored before counts.
type mortal struct {
	*gateway
	nc *nats.Conn
}

func (m *mortal) kill() {
	m.nc.Close()
	m.stop()
}

func mortalGateway(t *testing.T, n *testNode, cfg webhook.Config, name string) *mortal {
	t.Helper()
	nc := n.connect(t)
	b, err := bus.New(nc, obs.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return &mortal{nc: nc, gateway: start(t, b, cfg, func(d *webhook.Deps) { d.Node = name })}
}

// TestKillLosesNothing kills the delivering node again and again under load,
// with one receiver that answers well, one that often fails and one that is
// slow enough to lag.
func TestKillLosesNothing(t *testing.T) {
	n := newNode(t)
	cfg := config()
	cfg.Queue = 8
	g := mortalGateway(t, n, cfg, "test-1")
	good := receive(t, nil)
	flaky := receive(t, func(_ int, w http.ResponseWriter, _ received) {
		if rand.IntN(10) == 0 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	slow := receive(t, func(_ int, _ http.ResponseWriter, _ received) { <-time.After(4 * time.Millisecond) })
	for _, rc := range []*receiver{good, flaky, slow} {
		g.create(map[string]any{"url": rc.URL, "subjects": []string{"a.>"}})
	}
	var ids []string
	for range 5 {
		ids = append(ids, publish(t, n.bus, "a.b", 300)...)
		before := len(good.all())
		wefttest.Eventually(t, 20*time.Second, "some delivered", func() bool { return len(good.all()) > before+50 })
		g.kill()
		g = mortalGateway(t, n, cfg, "test-1")
	}
	for name, rc := range map[string]*receiver{"good": good, "flaky": flaky, "slow": slow} {
		wefttest.Eventually(t, 60*time.Second, name+" has all", func() bool { return len(rc.ids()) >= len(ids) })
		got, twice := rc.ids(), 0
		for _, id := range ids {
			if got[id] == 0 {
				t.Errorf("%s: event %s is lost", name, id)
			}
			twice += max(0, got[id]-1)
		}
		t.Logf("%s: %d events, %d requests more than events", name, len(ids), twice)
		// In flight per kill: 8 requests, and what answered within one journal
		// batch, which grows with the machine's load.
		if limit := 5 * 200; name == "good" && twice > limit {
			t.Errorf("%s: %d duplicates, want at most %d", name, twice, limit)
		}
	}
}

// TestStopDuplicatesNothing restarts the service in an orderly way under load.
func TestStopDuplicatesNothing(t *testing.T) {
	n := newNode(t)
	g := start(t, n.bus, config())
	rc := receive(t, nil)
	g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
	var ids []string
	for range 3 {
		ids = append(ids, publish(t, n.bus, "a", 300)...)
		before := len(rc.all())
		wefttest.Eventually(t, 10*time.Second, "some delivered", func() bool { return len(rc.all()) > before+20 })
		g.stop()
		g = start(t, n.bus, config())
	}
	wefttest.Eventually(t, 30*time.Second, "all delivered", func() bool { return len(rc.ids()) == len(ids) })
	for id, n := range rc.ids() {
		if n > 1 {
			t.Errorf("event %s was sent %d times", id, n)
		}
	}
}

// TestSecondNodeTakesOver has two nodes: both serve the API and show the same,
// one delivers; when it dies the other goes on.
func TestSecondNodeTakesOver(t *testing.T) {
	n := newNode(t)
	one := mortalGateway(t, n, config(), "test-1")
	rc := receive(t, nil)
	h := one.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
	two := mortalGateway(t, n, config(), "test-2")
	publish(t, n.bus, "a", 10)
	wefttest.Eventually(t, 10*time.Second, "delivered by one node", func() bool { return len(rc.all()) == 10 })
	wefttest.Eventually(t, 5*time.Second, "status through the other node", func() bool {
		s := two.status(h.ID)
		return s.Node == "test-1" && s.Delivered == 10
	})
	second := two.create(map[string]any{"url": rc.URL, "subjects": []string{"b"}})
	publish(t, n.bus, "b", 1)
	wefttest.Eventually(t, 5*time.Second, "endpoint made on the other node", func() bool { return len(rc.all()) == 11 })
	one.kill()
	publish(t, n.bus, "a", 5)
	publish(t, n.bus, "b", 5)
	wefttest.Eventually(t, 20*time.Second, "the other node goes on", func() bool { return len(rc.ids()) == 21 })
	if s := two.status(second.ID); s.Node != "test-2" {
		t.Errorf("status = %+v, want node test-2", s)
	}
}

func TestReplay(t *testing.T) {
	n := newNode(t)
	g := mortalGateway(t, n, config(), "test-1")
	rc := receive(t, nil)
	publish(t, n.bus, "a", 3)
	h := g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
	ids := publish(t, n.bus, "a", 4)
	settled := func() bool { s := g.status(h.ID); return s.State == "live" && s.Cursor == 7 }
	wefttest.Eventually(t, 5*time.Second, "delivered", func() bool { return len(rc.all()) == 4 && settled() })
	if got := g.call(http.MethodPost, "/v1/webhooks/"+h.ID+"/replay", map[string]any{"after": "5"}, nil); got != http.StatusAccepted {
		t.Fatalf("replay answered %d", got)
	}
	wefttest.Eventually(t, 5*time.Second, "two sent again", func() bool {
		got := rc.ids()
		return len(rc.all()) == 6 && got[ids[2]] == 2 && got[ids[3]] == 2 && settled()
	})
	since := time.Now().Add(-time.Hour)
	if got := g.call(http.MethodPost, "/v1/webhooks/"+h.ID+"/replay", map[string]any{"since": since}, nil); got != http.StatusAccepted {
		t.Fatalf("replay answered %d", got)
	}
	wefttest.Eventually(t, 5*time.Second, "all of the stream sent", func() bool { return len(rc.all()) == 13 && settled() })
	g.kill()
	g = mortalGateway(t, n, config(), "test-1")
	more := publish(t, n.bus, "a", 1)
	wefttest.Eventually(t, 10*time.Second, "goes on after a restart", func() bool { return rc.ids()[more[0]] == 1 })
	if got := len(rc.all()); got != 14 {
		t.Errorf("%d requests after the restart, want 14", got)
	}
}

// TestIdle has no consumer while there is no endpoint, and no gap when one
// comes and goes.
func TestIdle(t *testing.T) {
	n := newNode(t)
	g := start(t, n.bus, config())
	consumers := func() int {
		s, err := n.bus.JetStream().Stream(t.Context(), bus.Stream)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Consumers
	}
	rc := receive(t, nil)
	for round := 1; round <= 3; round++ {
		wefttest.Eventually(t, 5*time.Second, "idle", func() bool { return consumers() == 0 })
		publish(t, n.bus, "a", 5)
		h := g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
		publish(t, n.bus, "a", 5)
		wefttest.Eventually(t, 10*time.Second, "all since the endpoint was made", func() bool { return len(rc.all()) == 5*round })
		if consumers() != 1 {
			t.Errorf("%d consumers, want 1", consumers())
		}
		g.call(http.MethodDelete, "/v1/webhooks/"+h.ID, nil, nil)
	}
}

// TestExpiredIsCounted lets retention take events from a disabled endpoint.
func TestExpiredIsCounted(t *testing.T) {
	n := newNode(t)
	g := start(t, n.bus, config())
	rc := receive(t, nil)
	h := g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}, "disabled": true})
	publish(t, n.bus, "a", 10)
	s, err := n.bus.JetStream().Stream(t.Context(), bus.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), purgeTo(8)); err != nil {
		t.Fatal(err)
	}
	g.stop()
	g = start(t, n.bus, config()) // looks at the stream's start at once
	wefttest.Eventually(t, 10*time.Second, "counted", func() bool { return g.status(h.ID).Expired == 7 })
	g.call(http.MethodPatch, "/v1/webhooks/"+h.ID, map[string]any{"disabled": false}, nil)
	wefttest.Eventually(t, 5*time.Second, "the rest is delivered", func() bool { return len(rc.all()) == 3 })
}

// TestSourceFailure has the stream fail now and then.
func TestSourceFailure(t *testing.T) {
	n := newNode(t)
	src := &sick{Bus: n.bus}
	g := start(t, n.bus, config(), func(d *webhook.Deps) { d.Source = src })
	rc := receive(t, nil)
	h := g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
	src.set(3)
	publish(t, n.bus, "a", 3)
	g.call(http.MethodPost, "/v1/webhooks/"+h.ID+"/replay", map[string]any{"after": "0"}, nil)
	wefttest.Eventually(t, 20*time.Second, "delivered in the end", func() bool { return len(rc.ids()) == 3 })
}

// sick fails a number of pages.
type sick struct {
	*bus.Bus
	mu   sync.Mutex
	left int
}

func (s *sick) set(n int) { s.mu.Lock(); defer s.mu.Unlock(); s.left = n }

func (s *sick) Page(ctx context.Context, cfg bus.PageConfig) ([]event.Stored, uint64, error) {
	s.mu.Lock()
	s.left--
	fail := s.left >= 0
	s.mu.Unlock()
	if fail {
		return nil, 0, errors.New("out of order")
	}
	return s.Bus.Page(ctx, cfg)
}

// TestUnreadableEndpointKeepsItsRetries: a retry of an endpoint that this node
// does not know is not thrown away unless the endpoint is deleted.
func TestUnreadableEndpointKeepsItsRetries(t *testing.T) {
	n := newNode(t)
	g := start(t, n.bus, config())
	var up atomic.Bool
	rc := receive(t, func(_ int, w http.ResponseWriter, _ received) {
		if !up.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	h := g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
	publish(t, n.bus, "a", 1)
	wefttest.Eventually(t, 5*time.Second, "a stored retry", func() bool { return g.status(h.ID).Scheduled == 1 })
	g.stop()
	kv, err := n.bus.JetStream().KeyValue(t.Context(), "weft_webhooks")
	if err != nil {
		t.Fatal(err)
	}
	good, err := kv.Get(t.Context(), h.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), h.ID, []byte("{}, of a later release")); err != nil {
		t.Fatal(err)
	}
	start(t, n.bus, config())
	s, err := n.bus.JetStream().Stream(t.Context(), "WEFT_RETRY")
	if err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 10*time.Second, "the retry falls due", func() bool {
		c, err := s.Consumer(t.Context(), "weft_webhooks")
		return err == nil && c.CachedInfo().Delivered.Consumer > 0
	})
	up.Store(true)
	if _, err := kv.Put(t.Context(), h.ID, good.Value()); err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 20*time.Second, "delivered in the end", func() bool { return len(rc.all()) > 1 })
}
