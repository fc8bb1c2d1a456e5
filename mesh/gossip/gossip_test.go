package gossip_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/internal/obs"
	"weft.dev/weft/mesh/gossip"
)

// logs is a log that a test reads while it grows.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// open runs a node's part in a pool until the test ends.
func open(t *testing.T, cfg gossip.Config) (*gossip.Pool, *logs, func()) {
	t.Helper()
	out := new(logs)
	scope := obs.Discard()
	scope.Log = slog.New(slog.NewTextHandler(out, nil))
	cfg.Listen = "127.0.0.1:0"
	cfg.Self.Site = cfg.Site
	p, err := gossip.Open(cfg, scope)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("leave: %v", err)
		}
	})
	t.Cleanup(stop)
	return p, out, stop
}

func config(site, node string, join ...string) gossip.Config {
	return gossip.Config{
		Site: site, Node: node, Join: join, Keys: []string{"a key of the test site"},
		Self: gossip.Meta{Size: 3, Route: "0.0.0.0:6222", Version: "test"},
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

func members(p *gossip.Pool) string {
	var names []string
	for _, m := range p.Members() {
		names = append(names, m.Node)
	}
	return strings.Join(names, " ")
}

func TestPoolFindsAllBySeed(t *testing.T) {
	a, _, _ := open(t, config("fra", "a"))
	b, _, _ := open(t, config("fra", "b", a.Addr()))
	c, _, stop := open(t, config("fra", "c", a.Addr()))
	for _, p := range []*gossip.Pool{a, b, c} {
		eventually(t, "three members", func() bool { return members(p) == "a b c" })
	}
	if got := b.Members()[0].Route; got != "127.0.0.1:6222" {
		t.Errorf("route of a = %s, want its address", got)
	}
	a.Call(t.Context())
	for _, p := range []*gossip.Pool{a, b, c} {
		select {
		case <-p.Called():
		case <-time.After(10 * time.Second):
			t.Error("a node was not called")
		}
	}
	stop()
	eventually(t, "the farewell", func() bool { return members(a) == "a b" && members(b) == "a b" })
}

// What does not fit is refused, and both sides say which setting it is.
func TestPoolRefuses(t *testing.T) {
	tests := []struct {
		name     string
		change   func(*gossip.Config)
		old, new string // in the log of the node that is there, and of the one that comes
	}{
		{"size", func(c *gossip.Config) { c.Self.Size = 5 }, "mesh.cluster.size: node b has 5, this one 3", "mesh.cluster.size: node a has 3, this one 5"},
		{"key", func(c *gossip.Config) { c.Keys = []string{"quite another key"} }, "mesh.gossip.key differs", "mesh.gossip.key differs"},
		{"no key", func(c *gossip.Config) { c.Keys = nil }, "mesh.gossip.key differs", "mesh.gossip.key differs"},
		{"site", func(c *gossip.Config) { c.Site = "iad" }, "it comes from another site", "mesh.gossip.join leads to another site"},
		{"name", func(c *gossip.Config) { c.Node = "a" }, "node: a is at", "node: a is at"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, logA, _ := open(t, config("fra", "a"))
			cfg := config("fra", "b", a.Addr())
			tt.change(&cfg)
			_, logB, _ := open(t, cfg)
			eventually(t, "both sides to say why", func() bool {
				return strings.Contains(logA.String(), tt.old) && strings.Contains(logB.String(), tt.new)
			})
			if got := members(a); got != "a" {
				t.Errorf("members = %s, want a alone", got)
			}
		})
	}
}

// A key is changed node by node: for a while both are understood.
func TestPoolChangesKey(t *testing.T) {
	cfg := config("fra", "a")
	cfg.Keys = []string{"the old key of the site", "the new key of the site"}
	a, _, _ := open(t, cfg)
	cfg = config("fra", "b", a.Addr())
	cfg.Keys = []string{"the new key of the site", "the old key of the site"}
	b, _, _ := open(t, cfg)
	eventually(t, "both members", func() bool { return members(a) == "a b" && members(b) == "a b" })
}
