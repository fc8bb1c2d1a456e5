package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
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

func local() mesh.Config {
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = ""
	return cfg
}

func TestRestartKeepsEvents(t *testing.T) {
	deps := wefttest.Deps(t, "a")
	n, stop := wefttest.StartStop(t, local(), deps)
	publish(t, n.Bus(), "orders.created", "1", 100)
	before, err := n.Bus().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stop()
	n, stop = wefttest.StartStop(t, local(), deps)
	defer stop()
	after, err := n.Bus().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.Epoch != before.Epoch || after.Last != before.Last || after.Messages != 100 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	publish(t, n.Bus(), "orders.created", "2", 100)
	if got := ids(t, n.Bus()); total(got) != 200 {
		t.Errorf("%d events", total(got))
	}
}

// A start that cannot work says which key is at fault.
func TestStartRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	busy := local()
	busy.Client.Listen = ln.Addr().String()
	busyLinks := local()
	busyLinks.Links.Listen = ln.Addr().String()

	twice := local()
	twice.Client.Listen = wefttest.FreeAddr(t)
	twice.Links.Listen = twice.Client.Listen

	held := wefttest.Deps(t, "a")
	wefttest.Start(t, local(), held)
	foreign := wefttest.Deps(t, "a")
	_, stop := wefttest.StartStop(t, local(), foreign)
	stop()
	foreign.Site = "b"
	file := wefttest.Deps(t, "a")
	file.Dir = filepath.Join(file.Dir, "file")
	if err := os.WriteFile(file.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := wefttest.Deps(t, "a")
	if err := os.WriteFile(filepath.Join(damaged.Dir, "weft-site.json"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cfg  mesh.Config
		deps mesh.Deps
		key  string
		want string
	}{
		{"client port in use", busy, wefttest.Deps(t, "a"), "mesh.client.listen", "address already in use"},
		{"link port in use", busyLinks, wefttest.Deps(t, "a"), "mesh.links.listen", "address already in use"},
		{"one port for both", twice, wefttest.Deps(t, "a"), "mesh.links.listen", "address already in use"},
		{"second process", local(), held, "data", "in use by another process"},
		{"another site's data", local(), foreign, "data", "belongs to node a-1 of site a, not to node a-1 of site b"},
		{"not a directory", local(), file, "data", "not a directory"},
		{"damaged marker", local(), damaged, "data", "damaged"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, err := mesh.New(tt.cfg, tt.deps)
			if err != nil {
				t.Fatal(err)
			}
			err = n.Run(t.Context())
			var field *conf.FieldError
			if !errors.As(err, &field) || field.Path != tt.key || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %s: %s", err, tt.key, tt.want)
			}
		})
	}
}

func TestUnwritableDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("the superuser may write anywhere")
	}
	deps := wefttest.Deps(t, "a")
	if err := os.Chmod(deps.Dir, 0o500); err != nil {
		t.Fatal(err)
	}
	n, err := mesh.New(local(), deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("err = %v", err)
	}
}

func TestValidate(t *testing.T) {
	secret := conf.Secret("sixteen-characters")
	tests := []struct {
		name string
		give func(*mesh.Config)
		want string // the key at fault, "" if none
	}{
		{"default", func(*mesh.Config) {}, ""},
		{"open to the world", func(c *mesh.Config) { c.Client.Listen = "0.0.0.0:4222" }, "client.listen"},
		{"open to users", func(c *mesh.Config) {
			c.Client.Listen = "0.0.0.0:4222"
			c.Client.Users = []mesh.User{{Name: "app", Password: "x"}}
		}, ""},
		{"bad permission", func(c *mesh.Config) {
			c.Client.Users = []mesh.User{{Name: "a", Password: "x", Publish: []string{"a..b"}}}
		}, "client.users[0].publish[0]"},
		{"reserved user", func(c *mesh.Config) { c.Client.Users = []mesh.User{{Name: "weft-node", Password: "x"}} }, "client.users[0].name"},
		{"no secret", func(c *mesh.Config) {
			c.Links.Sites = []mesh.Link{{Name: "b", URLs: []string{"tls://b:7422"}}}
		}, "links.sites[0].secret"},
		{"nobody can dial", func(c *mesh.Config) { c.Links.Sites = []mesh.Link{{Name: "b", Secret: secret}} }, "links.sites[0].urls"},
		{"scheme", func(c *mesh.Config) {
			c.Links.Sites = []mesh.Link{{Name: "b", Secret: secret, URLs: []string{"http://b:7422"}}}
		}, "links.sites[0].urls[0]"},
		{"crossing patterns", func(c *mesh.Config) {
			c.Links.Listen = "127.0.0.1:0"
			c.Links.Sites = []mesh.Link{{Name: "b", Secret: secret, Export: []string{"orders.*.created", "orders.eu.*"}}}
		}, "links.sites[0].export[1]"},
		{"own subjects captured", func(c *mesh.Config) { c.Events.Capture = []string{"ev.x"} }, "events.capture[0]"},
		{"staging", func(c *mesh.Config) { c.Events.Staging = "tape" }, "events.staging"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := mesh.DefaultConfig()
			tt.give(&cfg)
			err := cfg.Validate()
			var field *conf.FieldError
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("err = %v", err)
			case tt.want != "" && (!errors.As(err, &field) || field.Path != tt.want):
				t.Errorf("err = %v, want %s", err, tt.want)
			}
		})
	}
}

// A message that a native NATS client publishes on a subject of its own reaches
// its plain subscribers and becomes an event, once, also over a restart.
func TestCapture(t *testing.T) {
	t.Parallel()
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = "127.0.0.1:0"
	cfg.Events.Capture = []string{"orders.>", "stock.*.moved"}
	deps := wefttest.Deps(t, "a")
	n, stop := wefttest.StartStop(t, cfg, deps)
	defer func() { stop() }()
	nc, err := nats.Connect(n.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	heard, err := nc.SubscribeSync("orders.>")
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"orders.created", "stock.7.moved", "stock.7.counted"} {
		if err := nc.Publish(subject, []byte("plain")); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := heard.NextMsg(5 * time.Second); err != nil || m.Subject != "orders.created" {
		t.Errorf("plain subscriber: %v, %v", m, err)
	}
	wefttest.Eventually(t, 10*time.Second, "captured events", func() bool { return total(ids(t, n.Bus())) >= 2 })
	events, _, err := n.Bus().Page(t.Context(), bus.PageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"orders.created", "stock.7.moved"} {
		if e := events[i]; e.Path != want || e.Origin != "a" || string(e.Data) != "plain" || e.Type != want {
			t.Errorf("event %d = %+v", i, e)
		}
	}
	stop()
	cfg.Events.Capture = []string{"orders.>"}
	n, stop = wefttest.StartStop(t, cfg, deps)
	publish(t, n.Bus(), "orders.updated", "own", 1)
	if got := total(ids(t, n.Bus())); got != 3 {
		t.Errorf("%d events after the restart, want 3", got)
	}
}

func TestNativeClients(t *testing.T) {
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = "127.0.0.1:0"
	n := wefttest.Start(t, cfg, wefttest.Deps(t, "a"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := bus.Dial(ctx, bus.Config{URL: n.ClientURL(), Name: "sidecar"}, wefttest.Deps(t, "a").Scope)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Conn().Close()
	done := make(chan error, 1)
	run, end := context.WithCancel(t.Context())
	go func() { done <- b.Run(run) }()
	publish(t, b, "orders.created", "remote", 50)
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b.Site() != "a" || total(ids(t, n.Bus())) != 50 {
		t.Errorf("site %s, %d events", b.Site(), total(ids(t, n.Bus())))
	}
	// A NATS client with the SDK alone.
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	e := event.Event{ID: "native", Source: "/native", Type: "orders.created"}
	header, data := e.NATS()
	if _, err := js.PublishMsg(ctx, &nats.Msg{Subject: event.OnMesh("a", "orders.created"), Header: header, Data: data}); err != nil {
		t.Error(err)
	}
}

func TestUsers(t *testing.T) {
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = "127.0.0.1:0"
	cfg.Client.Users = []mesh.User{{Name: "app", Password: "secret", Publish: []string{"orders.>"}}}
	n := wefttest.Start(t, cfg, wefttest.Deps(t, "a"))
	if nc, err := nats.Connect(n.ClientURL()); err == nil {
		nc.Close()
		t.Error("a client without credentials connected")
	}
	nc, err := nats.Connect(n.ClientURL(), nats.UserInfo("app", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

// What was captured is an event of the site, also if the capture is taken out of
// the configuration before the stream has drawn it.
func TestCaptureTakenOut(t *testing.T) {
	t.Parallel()
	for name, next := range map[string][]string{"none": nil, "another": {"legacy.>"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // the server takes 10 s to find the source again
			cfg := local()
			cfg.Events.Capture = []string{"old.>"}
			deps := wefttest.Deps(t, "a")
			n, stop := wefttest.StartStop(t, cfg, deps)
			js := n.Bus().JetStream()
			const count = 500
			for i := range count {
				if _, err := js.PublishAsync("old.thing", fmt.Append(nil, i)); err != nil {
					t.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
			stop()
			cfg.Events.Capture = next
			n = wefttest.Start(t, cfg, deps)
			wefttest.Eventually(t, 20*time.Second, "all that was captured", func() bool { return total(ids(t, n.Bus())) >= count })
		})
	}
}
