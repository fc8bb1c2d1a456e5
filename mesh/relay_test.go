package mesh_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// hubs are core sites, each linked to each, and edges with their homes. Every
// site is one node that can be stopped and started again.
type hubs struct {
	cfg  map[string]mesh.Config
	deps map[string]mesh.Deps
	node map[string]*mesh.Node
	stop map[string]func()
}

// newHubs starts the cores and then the edges, which are given as name:home,home.
func newHubs(t *testing.T, cores []string, edges ...string) *hubs {
	t.Helper()
	h := &hubs{cfg: map[string]mesh.Config{}, deps: map[string]mesh.Deps{}, node: map[string]*mesh.Node{}, stop: map[string]func(){}}
	addr := map[string]string{}
	for _, c := range cores {
		addr[c] = wefttest.FreeAddr(t)
		cfg := local()
		cfg.Links.Listen = addr[c]
		h.cfg[c] = cfg
	}
	join := func(a, b string, there, here mesh.Link) { // a dials
		there.Name, there.Secret, there.Export, there.Import = b, wefttest.Secret, []string{">"}, []string{">"}
		there.URLs = []string{"nats://" + addr[b]}
		here.Name, here.Secret, here.Export, here.Import = a, wefttest.Secret, []string{">"}, []string{">"}
		ca, cb := h.cfg[a], h.cfg[b]
		ca.Links.Sites = append(ca.Links.Sites, there)
		cb.Links.Sites = append(cb.Links.Sites, here)
		h.cfg[a], h.cfg[b] = ca, cb
	}
	for i, a := range cores {
		for _, b := range cores[i+1:] {
			join(a, b, mesh.Link{Relays: true}, mesh.Link{Relays: true})
		}
	}
	order := slices.Clone(cores)
	for _, e := range edges {
		name, homes, _ := strings.Cut(e, ":")
		h.cfg[name] = local()
		for home := range strings.SplitSeq(homes, ",") {
			join(name, home, mesh.Link{Home: true}, mesh.Link{Edge: true})
		}
		order = append(order, name)
	}
	for _, site := range order {
		h.deps[site] = wefttest.Deps(t, site)
		h.start(t, site)
	}
	return h
}

func (h *hubs) start(t *testing.T, site string) {
	t.Helper()
	h.node[site], h.stop[site] = wefttest.StartStop(t, h.cfg[site], h.deps[site])
	t.Cleanup(func() { h.stop[site]() })
}

func (h *hubs) bus(site string) *bus.Bus { return h.node[site].Bus() }

// exact waits until every site holds the accepted events of each, and holds
// them against their order: <site>-0, <site>-1, …
func (h *hubs) exact(t *testing.T, accepted map[string]int) {
	t.Helper()
	want := 0
	for _, n := range accepted {
		want += n
	}
	for site := range h.cfg {
		wefttest.Eventually(t, time.Minute, "all events at "+site, func() bool { return count(t, h.bus(site)) >= want })
		got := names(t, h.bus(site))
		for origin, n := range accepted {
			if len(got[origin]) != n {
				t.Errorf("site %s has %d events of %s, want %d", site, len(got[origin]), origin, n)
				continue
			}
			for i, id := range got[origin] {
				if id != fmt.Sprintf("%s-%d", origin, i) {
					t.Errorf("site %s: event %d of %s is %s", site, i, origin, id)
					break
				}
			}
		}
	}
}

// bare are messages without an id, named <name>-<n> from a number on: nothing but
// the positions keeps them from being doubled.
type bare struct {
	at                  *bus.Bus // the site's
	site, subject, name string
	from, count         int
}

// send publishes them until ctx ends and returns the number of those accepted.
func (b bare) send(ctx context.Context, t *testing.T) int {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := range b.count {
		select {
		case <-ctx.Done():
			return n
		case <-tick.C:
		}
		name := fmt.Sprintf("%s-%d", b.name, b.from+n)
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute) // an unknown outcome would spoil the count
		_, err := b.at.JetStream().Publish(own, "ev."+b.site+"."+b.subject, []byte(name))
		cancel()
		if err != nil {
			t.Errorf("publish %s: %v", name, err)
			return n
		}
	}
	return b.count
}

// names are what a site holds, in order, by origin.
func names(t *testing.T, b *bus.Bus) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for after := uint64(0); ; {
		events, next, err := b.Page(t.Context(), bus.PageConfig{After: after})
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			return out
		}
		for _, e := range events {
			out[e.Origin] = append(out[e.Origin], string(e.Data))
		}
		after = next
	}
}

// What an edge accepts comes to every site by way of its home, and what the
// others accept comes to the edge.
func TestEdgesHearEachOther(t *testing.T) {
	t.Parallel()
	h := newHubs(t, []string{"p", "q"}, "e:p", "f:q")
	accepted := map[string]int{}
	for site := range h.cfg {
		accepted[site] = bare{h.bus(site), site, "orders.created", site, 0, 100}.send(t.Context(), t)
	}
	h.exact(t, accepted)
}

// An edge with two homes goes on when one of them is away, in both directions,
// and nothing is lost, doubled or out of order when it returns.
func TestEdgeWithTwoHomes(t *testing.T) {
	t.Parallel()
	h := newHubs(t, []string{"p", "q", "r"}, "e:p,q", "f:q,r")
	ctx, halt := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	accepted := map[string]int{}
	var mu sync.Mutex
	for _, site := range []string{"e", "f", "r"} {
		b := bare{h.bus(site), site, "orders.created", site, 0, math.MaxInt}
		publishing.Go(func() {
			n := b.send(ctx, t)
			mu.Lock()
			defer mu.Unlock()
			accepted[site] = n
		})
	}
	has := func(site, origin string, more int) {
		t.Helper()
		before := len(ids(t, h.bus(site))[origin])
		wefttest.Eventually(t, 20*time.Second, "events of "+origin+" at "+site, func() bool { return len(ids(t, h.bus(site))[origin]) >= before+more })
	}
	for _, home := range []string{"p", "q"} {
		has("f", "e", 50)
		h.stop[home]()
		has("e", "r", 50)
		if home == "p" {
			has("r", "e", 50) // by way of q
			has("f", "e", 50)
		}
		h.start(t, home)
		has(home, "e", 50)
	}
	halt()
	publishing.Wait()
	h.exact(t, accepted)
}

// Filters that become wider bring what they had kept out, also of the past;
// what had crossed before, and under filters that were narrower in between, does
// not come again.
func TestFiltersChange(t *testing.T) {
	t.Parallel()
	h := newHubs(t, []string{"p", "q"})
	want := map[string]int{}
	send := func(subject string, n int) {
		t.Helper()
		want[subject] += bare{h.bus("p"), "p", subject, subject, want[subject], n}.send(t.Context(), t)
	}
	crossed := func(subjects ...string) {
		t.Helper()
		sum := 0
		for _, s := range subjects {
			sum += want[s]
		}
		wefttest.Eventually(t, 20*time.Second, "events to cross", func() bool { return len(ids(t, h.bus("q"))["p"]) >= sum })
		got := names(t, h.bus("q"))["p"]
		slices.Sort(got)
		if len(got) != sum || len(slices.Compact(got)) != sum {
			t.Fatalf("%d events have crossed, %d of them distinct, want %d", len(got), len(slices.Compact(got)), sum)
		}
	}
	wish := func(patterns ...string) {
		t.Helper()
		h.stop["q"]()
		h.cfg["q"].Links.Sites[0].Import = patterns
		h.start(t, "q")
	}
	wish("orders.>")
	send("orders.created", 100)
	send("stock.moved", 100)
	send("orders.created", 100)
	crossed("orders.created")
	wish("stock.>", "orders.>")
	send("orders.created", 50)
	crossed("orders.created", "stock.moved")
	wish("stock.>")
	send("stock.moved", 50)
	crossed("orders.created", "stock.moved")
	send("orders.created", 70)
	wish(">")
	send("stock.moved", 10)
	crossed("orders.created", "stock.moved")
}
