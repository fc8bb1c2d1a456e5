package mesh_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/pki"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// meshSecret admits the sites of these tests.
const meshSecret = conf.Secret("wefttest-mesh-secret")

// members are sites of one directory, which can be stopped and started again.
type members struct {
	t    *testing.T
	cfg  map[string]mesh.Config
	deps map[string]mesh.Deps
	node map[string]*mesh.Node
	stop map[string]func()
	logs map[string]*journal
}

func newMembers(t *testing.T) *members {
	return &members{t, map[string]mesh.Config{}, map[string]mesh.Deps{}, map[string]*mesh.Node{}, map[string]func(){}, map[string]*journal{}}
}

// add starts a site that joins by the link addresses of others.
func (m *members) add(name string, edit func(cfg *mesh.Config), join ...string) *mesh.Node {
	m.t.Helper()
	m.logs[name] = &journal{}
	cfg, d := m.prepare(name, m.logs[name], join...)
	if edit != nil {
		edit(&cfg)
	}
	m.cfg[name], m.deps[name] = cfg, d
	m.start(name)
	return m.node[name]
}

// prepare is a site's configuration and what it is given.
func (m *members) prepare(name string, log *journal, join ...string) (mesh.Config, mesh.Deps) {
	m.t.Helper()
	cfg := local()
	cfg.Links.Listen = wefttest.FreeAddr(m.t)
	cfg.Links.Directory.Secret = meshSecret
	for _, j := range join {
		cfg.Links.Directory.Join = append(cfg.Links.Directory.Join, m.node[j].LinkURL())
	}
	d := wefttest.Deps(m.t, name)
	d.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	return cfg, d
}

func (m *members) start(name string) {
	m.t.Helper()
	n, stop := wefttest.StartStop(m.t, m.cfg[name], m.deps[name])
	m.node[name], m.stop[name] = n, stop
	m.t.Cleanup(stop) // before its directory is removed; a second time does nothing
}

// end stops a site.
func (m *members) end(name string) {
	m.stop[name]()
}

// edge makes a site an edge that only dials.
func edge(cfg *mesh.Config) {
	cfg.Links.Listen, cfg.Links.Directory.Role = "", "edge"
}

// linked waits until a node has these links, and no others, and all are up.
func (m *members) linked(name string, n *mesh.Node, want ...string) {
	m.t.Helper()
	var have []string
	within(m.t, 30*time.Second, func() bool {
		st, err := n.Status(m.t.Context())
		if err != nil {
			return false
		}
		have = nil
		up := true
		for _, l := range st.Links {
			have = append(have, l.Site)
			up = up && l.Up && l.Importing
		}
		slices.Sort(have)
		return up && slices.Equal(have, want)
	}, func() string { return fmt.Sprintf("site %s is linked to %v, want %v:\n%s", name, have, want, m.said()) })
}

func (m *members) said() string {
	var out strings.Builder
	for name, j := range m.logs {
		fmt.Fprintf(&out, "== %s\n%s", name, j)
	}
	return out.String()
}

// says waits until a site's log has a text.
func (m *members) says(name, want string) {
	m.t.Helper()
	within(m.t, 20*time.Second, func() bool { return strings.Contains(m.logs[name].String(), want) },
		func() string { return fmt.Sprintf("site %s does not say %q but:\n%s", name, want, m.logs[name]) })
}

// A new site is given one address, and is linked to all core sites and imports
// from each, without anything being changed at those.
func TestDirectoryNewSiteNeedsOneURL(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	a := m.add("a", nil)
	b := m.add("b", nil, "a")
	m.linked("a", a, "b")
	m.linked("b", b, "a")
	publish(t, a.Bus(), "orders.created", "a", 20)
	publish(t, b.Bus(), "orders.created", "b", 20)
	level(t, a.Bus(), b.Bus(), 40)
	undisturbed := m.undisturbed("a", "b")
	start := time.Now()
	c := m.add("c", nil, "b")
	ready := time.Since(start)
	wefttest.Eventually(t, 20*time.Second, "the first event of each site", func() bool {
		at := ids(t, c.Bus())
		return len(at["a"]) > 0 && len(at["b"]) > 0
	})
	t.Logf("ready after %s, importing from both after %s", ready.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	for name, others := range map[string][]string{"a": {"b", "c"}, "b": {"a", "c"}, "c": {"a", "b"}} {
		m.linked(name, m.node[name], others...)
	}
	publish(t, c.Bus(), "orders.created", "c", 20)
	level(t, a.Bus(), c.Bus(), 60)
	level(t, b.Bus(), c.Bus(), 60)
	undisturbed()
}

// undisturbed returns what tells, later, whether the link between two sites has
// been up all the time, and its sessions open.
func (m *members) undisturbed(x, y string) func() {
	m.t.Helper()
	look := func(at, to string) (time.Time, []mesh.Incident) {
		st, err := m.node[at].Status(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		i := slices.IndexFunc(st.Links, func(l mesh.LinkStatus) bool { return l.Site == to })
		return st.Links[i].Since, st.Links[i].Incidents
	}
	sinceX, incidentsX := look(x, y)
	sinceY, incidentsY := look(y, x)
	return func() {
		m.t.Helper()
		// What is sent now arrives by the sessions that were open, or by new ones.
		for _, way := range [][2]*bus.Bus{{m.node[x].Bus(), m.node[y].Bus()}, {m.node[y].Bus(), m.node[x].Bus()}} {
			before := count(m.t, way[1])
			publish(m.t, way[0], "orders.more", "more-"+way[0].Site(), 5)
			wefttest.Eventually(m.t, 20*time.Second, "events over the link", func() bool { return count(m.t, way[1]) >= before+5 })
		}
		for _, s := range []struct {
			at, to    string
			since     time.Time
			incidents []mesh.Incident
		}{{x, y, sinceX, incidentsX}, {y, x, sinceY, incidentsY}} {
			since, incidents := look(s.at, s.to)
			if !since.Equal(s.since) || !slices.Equal(incidents, s.incidents) {
				m.t.Errorf("at site %s the link to %s was up since %s with %v and is since %s with %v", s.at, s.to, s.since, s.incidents, since, incidents)
			}
		}
	}
}

// A site that has joined once comes back when the one it joined by is gone, and
// also when the address is in its configuration no more.
func TestDirectoryOutlivesTheJoinURL(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.add("a", nil)
	b := m.add("b", nil, "a")
	c := m.add("c", nil, "a")
	m.linked("c", c, "a", "b")
	m.linked("b", b, "a", "c")
	m.end("a")
	m.end("c")
	cfg := m.cfg["c"]
	cfg.Links.Directory.Join = nil
	m.cfg["c"] = cfg
	m.start("c")
	publish(t, b.Bus(), "orders.created", "b", 20)
	publish(t, m.node["c"].Bus(), "orders.created", "c", 20)
	level(t, b.Bus(), m.node["c"].Bus(), 40)
}

// An edge joins by one home, is linked to that alone, and has the events of all.
func TestDirectoryEdge(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	a := m.add("a", nil)
	b := m.add("b", nil, "a")
	m.linked("a", a, "b")
	e := m.add("e", edge, "a")
	m.linked("e", e, "a")
	m.linked("a", a, "b", "e")
	m.linked("b", b, "a")
	for name, n := range m.node {
		publish(t, n.Bus(), "orders.created", name, 20)
	}
	level(t, a.Bus(), e.Bus(), 60)
	level(t, b.Bus(), e.Bus(), 60)
	if got := known(e); !slices.Equal(got, []string{"a", "b", "e"}) {
		t.Errorf("the edge knows the sites %v", got)
	}
}

// An edge of two homes is linked to both, and goes on by one of them.
func TestDirectoryEdgeOfTwoHomes(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	a := m.add("a", nil)
	b := m.add("b", nil, "a")
	e := m.add("e", edge, "a", "b")
	m.linked("e", e, "a", "b")
	m.linked("a", a, "b", "e")
	m.linked("b", b, "a", "e")
	m.end("a")
	publish(t, b.Bus(), "orders.created", "b", 20)
	publish(t, e.Bus(), "orders.created", "e", 20)
	level(t, b.Bus(), e.Bus(), 40)
}

// All nodes of a site that joins have its links, and another site joins by any of them.
func TestDirectoryClusterJoins(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	a := m.add("a", nil)
	b := m.add("b", nil, "a")
	seed := seedOf(t)
	addrs := []string{wefttest.FreeAddr(t), wefttest.FreeAddr(t), wefttest.FreeAddr(t)}
	site := wefttest.NewCluster(t, "c", 3, func(i int, cfg *mesh.Config) {
		cfg.Links.Listen, cfg.Links.NKey = addrs[i], seed
		cfg.Links.Directory.Secret = meshSecret
		cfg.Links.Directory.Join = []string{a.LinkURL()}
		for _, addr := range addrs {
			cfg.Links.Directory.Advertise = append(cfg.Links.Directory.Advertise, "nats://"+addr)
		}
	})
	m.linked("a", a, "b", "c")
	m.linked("b", b, "a", "c")
	for _, n := range site.Nodes {
		wefttest.Eventually(t, 20*time.Second, "the links at each node", func() bool {
			st, err := n.Status(t.Context())
			return err == nil && len(st.Links) == 2 && st.Links[0].Up && st.Links[1].Up
		})
	}
	publish(t, a.Bus(), "orders.created", "a", 20)
	publish(t, site.Nodes[1].Bus(), "orders.created", "c", 20)
	level(t, a.Bus(), site.Nodes[2].Bus(), 40)
	level(t, b.Bus(), site.Nodes[0].Bus(), 40)
	d := m.add("d", func(cfg *mesh.Config) { cfg.Links.Directory.Join = []string{site.Nodes[1].LinkURL()} })
	m.linked("d", d, "a", "b", "c")
	publish(t, d.Bus(), "orders.created", "d", 20)
	level(t, d.Bus(), site.Nodes[2].Bus(), 60)
}

func confSecret(raw []byte) conf.Secret { return conf.Secret(strings.TrimSpace(string(raw))) }

func seedOf(t *testing.T) conf.Secret {
	t.Helper()
	seed, _, err := pki.NKey()
	if err != nil {
		t.Fatal(err)
	}
	return conf.Secret(seed)
}

// known are the sites that a node's directory has.
func known(n *mesh.Node) (out []string) {
	for _, s := range n.Directory().Sites {
		out = append(out, s.Site)
	}
	return out
}

// Sites join with certificates, by WebSocket, and beside links made by hand.
func TestDirectoryKinds(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	tests := []struct {
		name, scheme string
		a, b         func(m *members, cfg *mesh.Config)
	}{
		{
			"tls", "tls",
			func(m *members, cfg *mesh.Config) { cfg.TLS = ca.site(m.t, "a", "127.0.0.1") },
			func(m *members, cfg *mesh.Config) { cfg.TLS = ca.site(m.t, "b", "127.0.0.1") },
		},
		{
			"websocket", "ws",
			func(m *members, cfg *mesh.Config) {
				cfg.Links.WebSocket.Listen, cfg.Links.Listen = cfg.Links.Listen, ""
				cfg.Links.Directory.Advertise = []string{"ws://" + cfg.Links.WebSocket.Listen}
			},
			func(m *members, cfg *mesh.Config) {
				cfg.Links.Listen = ""
				cfg.Links.Directory.Join = m.cfg["a"].Links.Directory.Advertise
			},
		},
		{
			"websocket with tls", "wss",
			func(m *members, cfg *mesh.Config) {
				cfg.TLS = ca.site(m.t, "a3", "127.0.0.1")
				cfg.Links.WebSocket.Listen, cfg.Links.Listen = cfg.Links.Listen, ""
				cfg.Links.Directory.Advertise = []string{"wss://" + cfg.Links.WebSocket.Listen}
			},
			func(m *members, cfg *mesh.Config) {
				cfg.TLS = ca.site(m.t, "b3", "127.0.0.1")
				cfg.Links.Directory.Join = m.cfg["a"].Links.Directory.Advertise
			},
		},
		{
			"linked by hand", "nats",
			func(_ *members, cfg *mesh.Config) {
				cfg.Links.Sites = []mesh.Link{{Name: "b", Secret: wefttest.Secret, Export: []string{"orders.>"}, Import: []string{">"}}}
			},
			func(m *members, cfg *mesh.Config) {
				cfg.Links.Sites = []mesh.Link{{Name: "a", URLs: []string{m.node["a"].LinkURL()}, Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}}
				cfg.Links.Directory.Join = []string{m.node["a"].LinkURL()}
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMembers(t)
			a := m.add("a", func(cfg *mesh.Config) { tt.a(m, cfg) })
			b := m.add("b", func(cfg *mesh.Config) {
				if tt.b(m, cfg); len(cfg.Links.Directory.Join) == 0 {
					cfg.Links.Directory.Join = []string{a.LinkURL()}
				}
			})
			m.linked("a", a, "b")
			m.linked("b", b, "a")
			publish(t, a.Bus(), "orders.created", "a", 20)
			publish(t, b.Bus(), "orders.created", "b", 20)
			level(t, a.Bus(), b.Bus(), 40)
			sites := b.Directory().Sites
			if len(sites) != 2 || !strings.HasPrefix(sites[0].URLs[0], tt.scheme+"://") || !sites[0].Linked || sites[0].ByHand != (tt.name == "linked by hand") {
				t.Errorf("site b knows %+v", sites)
			}
		})
	}
}

// Sites that start before the one that they join by join when it is there.
func TestDirectoryStartsInAnyOrder(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	addr := wefttest.FreeAddr(t)
	join := func(cfg *mesh.Config) { cfg.Links.Directory.Join = []string{"nats://" + addr} }
	b := m.add("b", join)
	c := m.add("c", join)
	m.says("b", "mesh not joined yet")
	a := m.add("a", func(cfg *mesh.Config) { cfg.Links.Listen = addr })
	m.linked("a", a, "b", "c")
	m.linked("b", b, "a", "c")
	m.linked("c", c, "a", "b")
}
