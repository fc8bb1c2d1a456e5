package mesh_test

import (
	"testing"
	"time"

	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// The guards of links, and what happens without them.

// A firewall forgets the connection of a link: it stands and carries nothing. The
// guard closes it, and the link goes on by a new one; without it, nothing comes.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	for name, guarded := range map[string]bool{"guarded": true, "unguarded": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.stop["b"]()
			w := newWAN(t, p.node["a"].LinkURL()[len("nats://"):])
			p.cfg["b"].Links.Sites[0].URLs = []string{"nats://" + w.Addr().String()}
			p.start(t, "b")
			healthy(t, p)
			if !guarded {
				p.node["a"].Trust()
				p.node["b"].Trust()
			}
			w.forget()
			publish(t, p.node["a"].Bus(), "orders.created", "a", 10)
			if guarded {
				level(t, p.node["a"].Bus(), p.node["b"].Bus(), 10)
				if wedged(t, p.node["a"])+wedged(t, p.node["b"]) == 0 {
					t.Error("it was not the guard that closed the connection")
				}
				return
			}
			// Twice as long as the guard waits.
			wefttest.Eventually(t, 30*time.Second, "questions without an answer", func() bool { return p.node["b"].Unanswered("a") >= 4 })
			st, err := p.node["b"].Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := count(t, p.node["b"].Bus()); got > 0 || st.Links[0].Connections == 0 || wedged(t, p.node["b"]) > 0 {
				t.Errorf("%d events came, %d connections stand: this test shows nothing", got, st.Links[0].Connections)
			}
		})
	}
}

// wedged is how many dead connections of its link a node has closed.
func wedged(t *testing.T, n *mesh.Node) uint64 {
	t.Helper()
	st, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range st.Links[0].Incidents {
		if i.Kind == "wedged" {
			return i.Count
		}
	}
	return 0
}

// A site's clock is wrong by a minute: nobody would know without the guard.
func TestWrongClock(t *testing.T) {
	t.Parallel()
	for name, guarded := range map[string]bool{"guarded": true, "unguarded": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			healthy(t, p)
			p.stop["b"]()
			if !guarded {
				p.node["a"].Trust()
			}
			d := p.deps["b"]
			d.Now = func() time.Time { return time.Now().Add(time.Minute) }
			p.deps["b"] = d
			p.start(t, "b")
			if guarded {
				named(t, p.node["a"], "clock_skew")
				named(t, p.node["b"], "clock_skew")
				return
			}
			p.node["b"].Trust()
			healthy(t, p) // as if nothing were wrong
			for _, n := range p.node {
				if st, err := n.Status(t.Context()); err != nil || !st.Links[0].Up || st.Links[0].ClockOffset != 0 {
					t.Errorf("link of %s = %+v, %v: the guard was on", n.Site, st.Links, err)
				}
			}
		})
	}
}
