package mesh_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// A site that is not taken in learns, as does the one that it asked, which
// setting is to blame, and the others go on.
func TestDirectoryRefusals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, site       string // of the one that joins
		edit             func(m *members, cfg *mesh.Config)
		now              func() time.Time
		asked, newcomers string
	}{
		{
			"wrong secret", "c", func(_ *members, cfg *mesh.Config) { cfg.Links.Directory.Secret = "another-secret-of-16" }, nil,
			"mesh.links.directory.secret: a site joins with another secret", "mesh.links.directory.secret: site a refuses it",
		},
		{
			"a name that is taken", "b", nil, nil,
			`the name \"b\" is taken by a site with another NKey`, `site a does not take this site in: site: the name \"b\" is taken`,
		},
		{
			"the name of the one that is asked", "a", nil, nil,
			`a site that is named \"a\" joins at a site of the same name`, `site a does not take this site in: site: a site that is named \"a\" joins`,
		},
		{
			"another's NKey", "c", func(m *members, cfg *mesh.Config) {
				seed, err := os.ReadFile(filepath.Join(m.deps["b"].Dir, "weft-link.seed"))
				if err != nil {
					m.t.Fatal(err)
				}
				cfg.Links.NKey = confSecret(seed)
			}, nil,
			`mesh.links.nkey: site \"c\" has the NKey of site b`, `site a does not take this site in: mesh.links.nkey: site \"c\" has the NKey`,
		},
		{
			"another's address", "c", func(m *members, cfg *mesh.Config) {
				cfg.Links.Directory.Advertise = []string{m.node["b"].LinkURL()}
			}, nil,
			`is an address of site b already`, `is an address of site b already`,
		},
		{
			"a clock far apart", "c", nil, func() time.Time { return time.Now().Add(-10 * time.Minute) },
			"the clocks of site c and site a are 10m0s apart", "site a does not take this site in: the clocks of site c and site a are 10m0s apart",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			a := m.add("a", nil)
			b := m.add("b", nil, "a")
			m.linked("a", a, "b")
			m.linked("b", b, "a")
			undisturbed := m.undisturbed("a", "b")
			j := &journal{}
			cfg, d := m.prepare(tt.site, j, "a")
			if tt.edit != nil {
				tt.edit(m, &cfg)
			}
			d.Now = tt.now
			c := wefttest.Start(t, cfg, d)
			m.logs["newcomer"] = j
			m.says("a", tt.asked)
			m.says("newcomer", tt.newcomers)
			if st := c.Directory(); len(st.Joins) != 1 || st.Joins[0].Site != "" {
				t.Errorf("joins = %+v", st.Joins)
			}
			wefttest.Eventually(t, 5*time.Second, "the problem shown", func() bool { return c.Directory().Joins[0].Problem != "" })
			publish(t, a.Bus(), "orders.created", "a", 20)
			publish(t, b.Bus(), "orders.created", "b", 20)
			level(t, a.Bus(), b.Bus(), 40)
			if got := ids(t, c.Bus()); total(got) != 0 {
				t.Errorf("the refused site holds %v", got)
			}
			undisturbed()
			if got := known(a); !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("site a knows %v", got)
			}
			if strings.Contains(m.said(), meshSecret.Reveal()) || strings.Contains(m.said(), "another-secret-of-16") {
				t.Error("a log shows a secret")
			}
		})
	}
}

// A site without a directory says so to one that joins.
func TestDirectoryIsOff(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.add("a", func(cfg *mesh.Config) { cfg.Links.Directory.Secret = "" })
	m.add("b", nil, "a")
	m.says("a", "a site joins, but this one has no directory")
	m.says("b", "or it has no mesh.links.directory")
}

// A forgotten site is let in nowhere, also where that was not heard at once, and
// does not come back by itself. Another may have its name.
func TestDirectoryForget(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	a := m.add("a", nil)
	b := m.add("b", nil, "a")
	c := m.add("c", nil, "a")
	m.linked("b", b, "a", "c")
	m.linked("c", c, "a", "b")
	m.end("c")
	if err := a.Forget(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 5*time.Second, "the link to be dropped", func() bool { return !slices.Contains(a.Sites(), "b") })
	m.start("c")
	m.linked("c", m.node["c"], "a")
	m.linked("a", a, "c")
	m.says("b", "was forgotten at site a (weft mesh forget)")
	m.end("b")
	m.start("b")
	m.says("b", "does not take this site in")
	m.says("a", `joins: site \"b\" was forgotten at site a`)
	publish(t, m.node["b"].Bus(), "orders.created", "b", 20)
	publish(t, a.Bus(), "orders.created", "a", 20)
	level(t, a.Bus(), m.node["c"].Bus(), 20)
	m.end("b")
	if err := os.Remove(filepath.Join(m.deps["b"].Dir, "weft-link.seed")); err != nil {
		t.Fatal(err)
	}
	m.start("b")
	m.linked("b", m.node["b"], "a", "c")
	level(t, a.Bus(), m.node["b"].Bus(), 40)
	if got := m.node["c"].Directory().Forgotten; len(got) != 1 || got[0].Site != "b" || got[0].By != "a" {
		t.Errorf("site c has forgotten %+v", got)
	}
	for _, tt := range []struct {
		n    *mesh.Node
		site string
		want string
	}{{a, "x", "no such site"}, {a, "a", "ask at another site"}} {
		if err := tt.n.Forget(t.Context(), tt.site); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("forget %s = %v, want %q", tt.site, err, tt.want)
		}
	}
}

// What admits a site lets it ask to join, and nothing else: it can neither hear
// nor say anything, nor read what another one is answered.
func TestDirectoryJoinerIsConfined(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	a := m.add("a", nil)
	here := a.Bus().Conn()
	arrived, heard := make(chan *nats.Msg, 256), make(chan *nats.Msg, 256)
	if _, err := here.ChanSubscribe(">", arrived); err != nil {
		t.Fatal(err)
	}
	password := mesh.JoinPassword(m.cfg["a"].Links.Directory)
	addr := strings.TrimPrefix(a.LinkURL(), "nats://")
	if nc, err := nats.Connect(a.LinkURL(), nats.UserInfo("weft-join", password), nats.Timeout(2*time.Second)); err == nil {
		nc.Close()
		t.Error("a client connected to the link listener")
	}
	nc := rogue(t, fmt.Sprintf("url: \"nats-leaf://weft-join:%s@%s\"", password, addr))
	for _, subject := range []string{">", "ev.>", "orders.>", "weft.>", "$JS.>", "$KV.>", "wl.>", "wl.join.ask", "wl.join.answer.>", "wl.a.b.>"} {
		if _, err := nc.ChanSubscribe(subject, heard); err != nil {
			t.Fatal(err)
		}
	}
	wefttest.Eventually(t, 10*time.Second, "the rogue server's link", func() bool {
		err := nc.Publish("wl.join.ask", []byte("{}"))
		return err == nil && seen(arrived, "wl.join.ask")
	})
	for _, subject := range []string{
		"ev.a.orders.created", "weft.in.b.orders.created", "weft.off.link.b", "weft.trace.spans", "orders.created", "wl.a.b.ask.link", "wl.a.b.ask.directory",
		"wl.join.answer.x", "$KV.weft_sites.site.x", "$JS.API.STREAM.PURGE.EVENTS", "$JS.a.API.STREAM.DELETE.KV_weft_sites", "$SYS.REQ.SERVER.PING",
	} {
		if err := nc.PublishRequest(subject, "wl.join.answer.reply", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	b := m.add("b", nil, "a") // joins by the same user meanwhile
	m.linked("b", b, "a")
	publish(t, a.Bus(), "orders.created", "a", 10)
	wefttest.Eventually(t, 10*time.Second, "the last messages", func() bool {
		if err := errors.Join(nc.Publish("wl.join.ask", []byte("last")), here.Publish("wl.join.answer.last", []byte("last"))); err != nil {
			return false
		}
		return last(arrived, "wl.join.ask", func(m *nats.Msg) {
			if m.Subject != "wl.join.ask" && string(m.Data) == "{}" {
				t.Errorf("%s came in", m.Subject)
			}
		}) && last(heard, "wl.join.answer.last", func(m *nats.Msg) {
			var sealed struct {
				Key string
				Box []byte
			}
			switch {
			case string(m.Data) == "{}", m.Subject == "wl.join.ask": // its own
			case !strings.HasPrefix(m.Subject, "wl.join.answer."):
				t.Errorf("%s got out", m.Subject)
			case string(m.Data) != "last":
				if err := json.Unmarshal(m.Data, &sealed); err != nil || sealed.Key == "" || strings.Contains(string(sealed.Box), "nats://") {
					t.Errorf("the answer to another can be read: %s", m.Data)
				}
			}
		})
	})
	if got := count(t, a.Bus()); got != 10 {
		t.Errorf("the site holds %d events, not 10", got)
	}
	if got := known(a); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("site a knows %v", got)
	}
}
