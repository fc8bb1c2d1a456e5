package mesh_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// wan is the network between two sites: a TCP proxy that can be cut and healed.
type wan struct {
	net.Listener
	target string
	conns  sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]struct{} // guarded by mu
	cut  bool                  // guarded by mu: connections are refused, or held
	hold bool                  // guarded by mu: a cut is silent, bytes vanish
	lost map[net.Conn]struct{} // guarded by mu: connections that carry nothing any more
}

func newWAN(t *testing.T, target string) *wan {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wan{Listener: l, target: target, open: map[net.Conn]struct{}{}}
	w.conns.Go(w.serve)
	t.Cleanup(func() {
		_ = l.Close()
		w.set(true, false)
		w.conns.Wait()
	})
	return w
}

func (w *wan) serve() {
	for {
		c, err := w.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", w.target)
		if err != nil || !w.keep(c, up) {
			_ = c.Close()
			if up != nil {
				_ = up.Close()
			}
			continue
		}
		w.conns.Go(func() { w.pipe(up, c) })
		w.conns.Go(func() { w.pipe(c, up) })
	}
}

// keep notes a pair of connections, unless the network is cut.
func (w *wan) keep(cs ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return false
	}
	for _, c := range cs {
		w.open[c] = struct{}{}
	}
	return true
}

func (w *wan) pipe(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		w.mu.Lock()
		_, lost := w.lost[src]
		lost = lost || w.cut && w.hold
		w.mu.Unlock()
		if !lost && n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// forget makes the connections that stand carry nothing any more, as a firewall
// does that has forgotten them; new ones work.
func (w *wan) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = maps.Clone(w.open)
}

// set cuts the network or heals it. A silent cut keeps connections that stood
// and swallows their bytes; healing then ends them, as TCP's own retries would
// find bytes missing.
func (w *wan) set(cut, silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut, w.hold = cut, silent
	if cut && silent {
		return
	}
	for c := range w.open {
		_ = c.Close()
	}
	clear(w.open)
}

// Both sites publish before, during and after cuts of the network between them.
// Afterwards each holds exactly what both accepted, in the order of its origin.
func TestSitesAreLevelAfterCuts(t *testing.T) {
	t.Parallel()
	a := local()
	a.Links.Listen = "127.0.0.1:0"
	a.Links.Sites = []mesh.Link{{Name: "b", Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}}
	na := wefttest.Start(t, a, wefttest.Deps(t, "a"))
	w := newWAN(t, na.LinkURL()[len("nats://"):])
	b := local()
	b.Links.Sites = []mesh.Link{{
		Name: "a", URLs: []string{"nats://" + w.Addr().String()}, Secret: wefttest.Secret,
		Export: []string{">"}, Import: []string{">"},
	}}
	nb := wefttest.Start(t, b, wefttest.Deps(t, "b"))
	ctx, stop := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	accepted := [2]int{}
	for i, n := range []*mesh.Node{na, nb} {
		publishing.Go(func() { accepted[i] = stream(ctx, t, n.Bus(), n.Site) })
	}
	up := func() bool {
		st, err := nb.Status(t.Context())
		return err == nil && st.Links[0].Up
	}
	for _, silent := range []bool{false, true} {
		wefttest.Eventually(t, 20*time.Second, "the link up", up)
		crossed := imported(t, nb)
		wefttest.Eventually(t, 20*time.Second, "events to cross", func() bool { return imported(t, nb) > crossed+100 })
		w.set(true, silent)
		wefttest.Eventually(t, 20*time.Second, "the link down", func() bool { return !up() })
		w.set(false, false)
	}
	wefttest.Eventually(t, 20*time.Second, "the link up", up)
	stop()
	publishing.Wait()
	level(t, na.Bus(), nb.Bus(), accepted[0]+accepted[1])
	got := ids(t, na.Bus())
	for i, origin := range []string{"a", "b"} {
		if len(got[origin]) != accepted[i] {
			t.Fatalf("%d events of site %s, want the %d accepted", len(got[origin]), origin, accepted[i])
		}
		for seq, id := range got[origin] {
			if want := fmt.Sprintf("%s-%d", origin, seq); id != want {
				t.Fatalf("event %d of site %s is %s, want %s", seq, origin, id, want)
			}
		}
	}
}

// imported is the number of events of site a at another node.
func imported(t *testing.T, n *mesh.Node) uint64 {
	t.Helper()
	s, err := n.Bus().JetStream().Stream(t.Context(), bus.Stream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter("ev.a.>"))
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Subjects["ev.a.orders.created"]
}

// stream publishes events one after the other until ctx ends and returns their
// number. No cut may keep a site from accepting.
func stream(ctx context.Context, t *testing.T, b *bus.Bus, prefix string) int {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return n
		case <-tick.C:
		}
		e := event.Event{ID: fmt.Sprintf("%s-%d", prefix, n), Data: []byte("x")}
		e.Fill(event.Defaults{Subject: "orders.created", Source: "/test", Now: time.Now()})
		if _, err := b.Publish(context.WithoutCancel(ctx), bus.Publication{Subject: "orders.created", Event: e}); err != nil {
			t.Errorf("publish %d at %s: %v", n, prefix, err)
			return n
		}
	}
}

// Two nodes of different sites may bear the same name, as two machines with
// the same host name do by default.
func TestLinkOfNodesWithOneName(t *testing.T) {
	t.Parallel()
	addr := map[string]string{}
	for _, name := range []string{"a", "b"} {
		addr[name] = wefttest.FreeAddr(t)
	}
	nodes := map[string]*mesh.Node{}
	for name, other := range map[string]string{"a": "b", "b": "a"} {
		cfg := local()
		cfg.Links.Listen = addr[name]
		cfg.Links.Sites = []mesh.Link{{
			Name: other, URLs: []string{"nats://" + addr[other]}, Secret: wefttest.Secret,
			Export: []string{">"}, Import: []string{">"},
		}}
		deps := wefttest.Deps(t, name)
		deps.Node = "host"
		nodes[name] = wefttest.Start(t, cfg, deps)
	}
	publish(t, nodes["a"].Bus(), "orders.created", "a", 10)
	publish(t, nodes["b"].Bus(), "orders.created", "b", 10)
	level(t, nodes["a"].Bus(), nodes["b"].Bus(), 20)
}

// A site that lost its data begins a new stream and takes over again what the
// linked site keeps. That one takes the new events of the site behind the old.
func TestLinkAfterLossOfData(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"a", "b"} {
		t.Run(lost+" lost", func(t *testing.T) {
			p := newPair(t)
			other := map[string]string{"a": "b", "b": "a"}[lost]
			publish(t, p.node[lost].Bus(), "orders.created", "old", 200)
			publish(t, p.node[other].Bus(), "orders.created", "kept", 50)
			level(t, p.node["a"].Bus(), p.node["b"].Bus(), 250)
			p.stop[lost]()
			if err := os.RemoveAll(p.deps[lost].Dir); err != nil {
				t.Fatal(err)
			}
			p.start(t, lost)
			publish(t, p.node[lost].Bus(), "orders.created", "new", 100)
			here, there := p.node[lost].Bus(), p.node[other].Bus()
			wefttest.Eventually(t, 20*time.Second, "the new events to cross", func() bool { return len(ids(t, there)[lost]) >= 300 })
			if got := ids(t, there)[lost]; len(got) != 300 || got[200] != "new-0" || got[299] != "new-99" {
				t.Errorf("%d events of %s at %s, want 300", len(got), lost, other)
			}
			wefttest.Eventually(t, 20*time.Second, "the kept events to return", func() bool { return len(ids(t, here)[other]) >= 50 })
		})
	}
}
