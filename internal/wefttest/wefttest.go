// Package wefttest runs real mesh nodes in the process of a test. It makes no
// compatibility promise.
package wefttest

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/mesh"
)

// startTimeout is how long a node may take to be ready on a busy machine.
const startTimeout = time.Minute

// Secret is the secret of all links made here.
const Secret = conf.Secret("wefttest-link-secret")

// Node runs one node, site "test", without listeners, until the test ends.
func Node(t testing.TB) *bus.Bus {
	t.Helper()
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = ""
	return Start(t, cfg, Deps(t, "test")).Bus()
}

// Listening runs one node, site "test", and returns the address that clients
// dial besides: a test may cut their connections without the node noticing more.
func Listening(t testing.TB) (b *bus.Bus, url string) {
	t.Helper()
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = "127.0.0.1:0"
	n := Start(t, cfg, Deps(t, "test"))
	return n.Bus(), n.ClientURL()
}

// Sites runs one node per name, each linked to all others in both directions
// for all subjects. A name dials those before it.
func Sites(t testing.TB, names ...string) map[string]*bus.Bus {
	t.Helper()
	buses := make(map[string]*bus.Bus, len(names))
	var started []*mesh.Node
	for i, name := range names {
		cfg := mesh.DefaultConfig()
		cfg.Client.Listen = ""
		cfg.Links.Listen = "127.0.0.1:0"
		for j, other := range names {
			l := mesh.Link{Name: other, Secret: Secret, Export: []string{">"}, Import: []string{">"}}
			switch {
			case j < i:
				l.URLs = []string{started[j].LinkURL()}
			case j == i:
				continue
			}
			cfg.Links.Sites = append(cfg.Links.Sites, l)
		}
		n := Start(t, cfg, Deps(t, name))
		started = append(started, n)
		buses[name] = n.Bus()
	}
	return buses
}

// Deps are a node's, with a directory of its own, for the named site.
func Deps(t testing.TB, site string) mesh.Deps {
	t.Helper()
	scope := obs.Discard()
	scope.Log = slog.New(slog.NewTextHandler(output{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return mesh.Deps{Scope: scope, Site: site, Node: site + "-1", Dir: t.TempDir(), Version: "test"}
}

// Start runs a node until the test ends and waits until it is ready.
func Start(t testing.TB, cfg mesh.Config, d mesh.Deps) *mesh.Node {
	t.Helper()
	n, stop := StartStop(t, cfg, d)
	t.Cleanup(stop)
	return n
}

// StartStop runs a node until stop is called, which waits for its end.
func StartStop(t testing.TB, cfg mesh.Config, d mesh.Deps) (n *mesh.Node, stop func()) {
	t.Helper()
	n, err := mesh.New(cfg, d)
	if err != nil {
		t.Fatalf("make node: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("node %s: %v", d.Node, err)
		}
		done <- nil // a second stop finds it ended
	}
	select {
	case <-n.Ready():
	case err := <-done:
		cancel()
		t.Fatalf("start node %s: %v", d.Node, err)
	case <-time.After(startTimeout):
		stop()
		t.Fatalf("node %s is not ready after %s", d.Node, startTimeout)
	}
	return n, stop
}

// Eventually polls cond until it holds or the deadline passes.
func Eventually(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		<-tick.C
	}
}

// output sends log lines to the test's output.
type output struct{ t testing.TB }

func (o output) Write(p []byte) (int, error) {
	o.t.Helper()
	o.t.Logf("%s", p[:len(p)-1])
	return len(p), nil
}

// given are the addresses that FreeAddr gave: tests run together, and an address
// stays its node's own while that is stopped.
var given sync.Map

// FreeAddr is a loopback address that is free now and that no outgoing
// connection takes meanwhile: it lies below the ports that systems use for
// those. No other caller gets it.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(22000)))
		if _, taken := given.LoadOrStore(addr, true); taken {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
}
