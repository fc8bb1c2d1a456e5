package mesh_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

func publish(t *testing.T, b *bus.Bus, subject, prefix string, count int) {
	t.Helper()
	ps := make([]bus.Publication, count)
	for i := range ps {
		e := event.Event{ID: fmt.Sprintf("%s-%d", prefix, i), Data: []byte("x")}
		e.Fill(event.Defaults{Subject: subject, Source: "/test", Now: time.Now()})
		ps[i] = bus.Publication{Subject: subject, Event: e}
	}
	for i, r := range b.PublishAll(t.Context(), ps) {
		if r.Err != nil { // a duplicate is one whose first acknowledgement got lost, as in an election
			t.Fatalf("publish %d: %+v", i, r)
		}
	}
}

// ids pages through a site's stream: the ids in their order, by origin.
func ids(t *testing.T, b *bus.Bus) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	var after uint64
	for {
		events, next, err := b.Page(t.Context(), bus.PageConfig{After: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			out[e.Origin] = append(out[e.Origin], e.ID)
		}
		if len(events) == 0 {
			return out
		}
		after = next
	}
}

// level waits until both sites hold the same events, in order per origin.
func level(t *testing.T, a, b *bus.Bus, want int) {
	t.Helper()
	// A site of one node syncs each event that it takes over.
	wefttest.Eventually(t, time.Minute, "both sites level", func() bool { return count(t, a) >= want && count(t, b) >= want })
	ia, ib := ids(t, a), ids(t, b)
	if total(ia) != want || total(ib) != want {
		t.Errorf("%d and %d events, want %d", total(ia), total(ib), want)
	}
	if !maps.EqualFunc(ia, ib, slices.Equal) {
		t.Error("the sites differ, or their order per origin does")
	}
}

// count is the number of events a site holds, asked of the server alone: paging
// in a loop would take the time from the link.
func count(t *testing.T, b *bus.Bus) (n int) {
	t.Helper()
	s, err := b.JetStream().Stream(t.Context(), bus.Stream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter("ev.>"))
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range info.State.Subjects {
		n += int(of)
	}
	return n
}

func total(m map[string][]string) (n int) {
	for _, s := range m {
		n += len(s)
	}
	return n
}

func TestLinkBothWays(t *testing.T) {
	sites := wefttest.Sites(t, "a", "b")
	publish(t, sites["a"], "orders.created", "a", 500)
	publish(t, sites["b"], "orders.created", "b", 500)
	level(t, sites["a"], sites["b"], 1000)
}

func TestLinkThreeSites(t *testing.T) {
	sites := wefttest.Sites(t, "a", "b", "c")
	for name, b := range sites {
		publish(t, b, "orders.created", name, 100)
	}
	level(t, sites["a"], sites["b"], 300)
	level(t, sites["b"], sites["c"], 300)
}

// pair is two linked sites whose nodes can be stopped and started again. b dials.
type pair struct {
	cfg  map[string]mesh.Config
	deps map[string]mesh.Deps
	node map[string]*mesh.Node
	stop map[string]func()
}

func newPair(t *testing.T) *pair {
	p := &pair{map[string]mesh.Config{}, map[string]mesh.Deps{}, map[string]*mesh.Node{}, map[string]func(){}}
	link := mesh.Link{Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}
	for name, other := range map[string]string{"a": "b", "b": "a"} {
		cfg := mesh.DefaultConfig()
		cfg.Client.Listen = ""
		link.Name = other
		cfg.Links.Sites = []mesh.Link{link}
		p.cfg[name], p.deps[name] = cfg, wefttest.Deps(t, name)
	}
	a := p.cfg["a"]
	a.Links.Listen = "127.0.0.1:0"
	p.cfg["a"] = a
	t.Cleanup(func() {
		for _, stop := range p.stop {
			stop()
		}
	})
	p.start(t, "a")
	// A restart of a must come back on the same port.
	a.Links.Listen = p.node["a"].LinkURL()[len("nats://"):]
	p.cfg["a"] = a
	p.cfg["b"].Links.Sites[0].URLs = []string{p.node["a"].LinkURL()}
	p.start(t, "b")
	return p
}

func (p *pair) start(t *testing.T, name string) {
	t.Helper()
	p.node[name], p.stop[name] = wefttest.StartStop(t, p.cfg[name], p.deps[name])
}

func TestLinkCatchesUp(t *testing.T) {
	t.Parallel()
	for _, away := range []string{"a", "b"} {
		t.Run(away+" restarts", func(t *testing.T) {
			p := newPair(t)
			here := map[string]string{"a": "b", "b": "a"}[away]
			publish(t, p.node["a"].Bus(), "orders.created", "a1", 200)
			publish(t, p.node["b"].Bus(), "orders.created", "b1", 200)
			level(t, p.node["a"].Bus(), p.node["b"].Bus(), 400)
			p.stop[away]()
			publish(t, p.node[here].Bus(), "orders.created", "2", 300)
			p.start(t, away)
			publish(t, p.node[away].Bus(), "orders.created", "3", 100)
			level(t, p.node["a"].Bus(), p.node["b"].Bus(), 800)
		})
	}
}

// Only what one side exports and the other imports crosses, and a change of
// either side's list brings nothing twice.
func TestLinkFilters(t *testing.T) {
	p := newPair(t)
	p.stop["b"]()
	p.cfg["b"].Links.Sites[0].Import = []string{"orders.eu.>"}
	p.start(t, "b")
	a, b := p.node["a"].Bus(), p.node["b"].Bus()
	publish(t, a, "orders.us.created", "us", 50)
	publish(t, a, "orders.eu.created", "eu", 50)
	wefttest.Eventually(t, 10*time.Second, "the imported events", func() bool { return count(t, b) >= 50 })
	if got := ids(t, b)["a"]; len(got) != 50 || got[0] != "eu-0" {
		t.Errorf("%d events crossed, first %s", len(got), got[0])
	}
	p.stop["b"]()
	p.cfg["b"].Links.Sites[0].Import = []string{"orders.>"}
	p.start(t, "b")
	wefttest.Eventually(t, 10*time.Second, "the new list in force", func() bool {
		st, err := p.node["b"].Status(t.Context())
		return err == nil && slices.Equal(st.Links[0].Imports, []string{"orders.>"})
	})
	publish(t, p.node["a"].Bus(), "orders.us.created", "us2", 50)
	b = p.node["b"].Bus()
	// A subject that is added to the list brings its past, too.
	wefttest.Eventually(t, 10*time.Second, "the newly imported events", func() bool { return count(t, b) >= 150 })
	if got := ids(t, b)["a"]; len(got) != 150 || got[50] != "us-0" || got[100] != "us2-0" {
		t.Errorf("%d events crossed", len(got))
	}
}

// A linked site may do nothing on the link but what the agreement needs.
func TestLinkUserIsConfined(t *testing.T) {
	p := newPair(t)
	url := p.node["a"].LinkURL()
	// A NATS client cannot use a link's credentials, nor any others, on the link port.
	for _, opt := range []nats.Option{nats.UserInfo("link-b", wefttest.Secret.Reveal()), nats.Name("nobody")} {
		if nc, err := nats.Connect(url, opt, nats.Timeout(2*time.Second)); err == nil {
			nc.Close()
			t.Error("a client connected to the link listener")
		}
	}
	// Plain messages do not cross, whatever a site subscribes to.
	heard := make(chan *nats.Msg, 16)
	for _, subject := range []string{"orders.>", "ev.>", "weft.trace.>", "wl.>"} {
		if _, err := p.node["b"].Bus().Conn().ChanSubscribe(subject, heard); err != nil {
			t.Fatal(err)
		}
	}
	nc := p.node["a"].Bus().Conn()
	for _, subject := range []string{"orders.created", "ev.a.orders.created", "weft.trace.spans"} {
		if err := nc.Publish(subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, p.node["a"].Bus(), "orders.created", "1", 10)
	wefttest.Eventually(t, 10*time.Second, "the events", func() bool { return len(ids(t, p.node["b"].Bus())["a"]) >= 10 })
	for len(heard) > 0 {
		// What names the pair is all there is.
		if m := <-heard; !strings.HasPrefix(m.Subject, "wl.a.b.") && !strings.HasPrefix(m.Subject, "wl.b.a.") {
			t.Errorf("%s crossed the link", m.Subject)
		}
	}
}

func TestLinkRefusesWrongSecret(t *testing.T) {
	p := newPair(t)
	p.stop["b"]()
	p.cfg["b"].Links.Sites[0].Secret = conf.Secret("not-the-secret-of-the-link")
	p.start(t, "b")
	publish(t, p.node["a"].Bus(), "orders.created", "1", 10)
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if _, err := p.node["b"].Ask(ctx, "a", "link", []byte("{}")); err == nil {
		t.Error("a site with a wrong secret got an answer")
	}
	if got := ids(t, p.node["b"].Bus()); total(got) != 0 {
		t.Errorf("events crossed: %v", got)
	}
}

func TestAskAnswersOpenSubjects(t *testing.T) {
	p := newPair(t)
	nc := p.node["a"].Bus().Conn()
	for _, subject := range []string{"weft.trace.find", "weft.secret"} {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte("from a: " + string(m.Data))) }); err != nil {
			t.Fatal(err)
		}
	}
	wefttest.Eventually(t, 10*time.Second, "link up", func() bool {
		st, err := p.node["b"].Status(t.Context())
		return err == nil && st.Links[0].Up
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	got, err := p.node["b"].Ask(ctx, "a", "weft.trace.find", []byte("id"))
	if err != nil || string(got) != "from a: id" {
		t.Errorf("answer = %q, %v", got, err)
	}
	if got, err := p.node["b"].Ask(ctx, "a", "weft.secret", nil); err == nil {
		t.Errorf("a closed subject answered %q", got)
	}
}

// Of two sites that both dial, the one whose name comes first makes the link.
func TestLinkBothDial(t *testing.T) {
	t.Parallel()
	p := &pair{map[string]mesh.Config{}, map[string]mesh.Deps{}, map[string]*mesh.Node{}, map[string]func(){}}
	addr := map[string]string{}
	for _, name := range []string{"a", "b"} {
		addr[name] = wefttest.FreeAddr(t)
	}
	for name, other := range map[string]string{"a": "b", "b": "a"} {
		cfg := local()
		cfg.Links.Listen = addr[name]
		cfg.Links.Sites = []mesh.Link{{
			Name: other, URLs: []string{"nats://" + addr[other]}, Secret: wefttest.Secret,
			Export: []string{">"}, Import: []string{">"},
		}}
		p.node[name] = wefttest.Start(t, cfg, wefttest.Deps(t, name))
	}
	wefttest.Eventually(t, 60*time.Second, "b to leave dialling to a", func() bool {
		a, errA := p.node["a"].Status(t.Context())
		b, errB := p.node["b"].Status(t.Context())
		return errA == nil && errB == nil && a.Links[0].Up && b.Links[0].Up && a.Links[0].Dials && !b.Links[0].Dials
	})
	publish(t, p.node["a"].Bus(), "orders.created", "a", 500)
	publish(t, p.node["b"].Bus(), "orders.created", "b", 500)
	level(t, p.node["a"].Bus(), p.node["b"].Bus(), 1000)
}
