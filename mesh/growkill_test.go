package mesh_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
	"weft.dev/weft/mesh/growth"
)

// growChildDir makes the test binary take the streams of a node, or be the node
// that brings them; growChildAddrs tells which.
const (
	growChildDir   = "WEFT_TEST_GROW_DIR"
	growChildAddrs = "WEFT_TEST_GROW_ADDRS" // cluster, gossip, seed; empty: take streams
)

// growChild writes a line for each progress, or each message of its log.
func growChild(dir string) error {
	scope := obs.Discard()
	d := mesh.Deps{Scope: scope, Site: "a", Node: "a-1", Dir: dir, Version: "test"}
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = ""
	cfg.Cluster.Size = 3
	cfg.Gossip.Key = wefttest.Key
	addrs := strings.Fields(os.Getenv(growChildAddrs))
	if len(addrs) == 0 {
		cfg.Cluster.Listen, cfg.Gossip.Listen = "127.0.0.1:1", "127.0.0.1:1" // not listened to
		_, err := mesh.Grow(context.Background(), cfg, d, func(p growth.Progress) { fmt.Println(p.Stream, p.Bytes) })
		fmt.Println("grown")
		return err
	}
	d.Log = slog.New(slog.NewTextHandler(os.Stdout, nil))
	cfg.Cluster.Listen, cfg.Gossip.Listen, cfg.Gossip.Join = addrs[0], addrs[1], addrs[2:]
	n, err := mesh.New(cfg, d)
	if err != nil {
		return err
	}
	return n.Run(context.Background())
}

// killedWhen runs the child until a line holds what is given, and a bit longer.
// It tells whether the line came.
func killedWhen(t *testing.T, dir, addrs, line string, after time.Duration) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), growChildDir+"="+dir, growChildAddrs+"="+addrs)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	came := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if came = came || strings.Contains(lines.Text(), line); came {
			break
		}
	}
	if came {
		<-time.After(after)
	}
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()
	return came
}

// solo is a site of one node with a history: its directory, and what it held.
func solo(t *testing.T, events int) (mesh.Deps, []kept, map[uint64]bool) {
	t.Helper()
	first := wefttest.Deps(t, "a")
	n, stop := wefttest.StartStop(t, local(), first)
	defer stop()
	ps := make([]bus.Publication, events)
	for i := range ps {
		e := event.Event{ID: fmt.Sprint("e", i), Data: []byte(strings.Repeat(fmt.Sprint(i), 200))}
		e.Fill(event.Defaults{Subject: "orders.created", Source: "/test", Now: time.Now()})
		ps[i] = bus.Publication{Subject: "orders.created", Event: e}
	}
	for _, r := range n.Bus().PublishAll(t.Context(), ps) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	js := n.Bus().JetStream()
	cons, err := js.CreateConsumer(t.Context(), bus.Stream, jetstream.ConsumerConfig{
		Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "ev.a.>", AckWait: 5 * time.Minute, MaxAckPending: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	unacked := half(t, cons, 400)
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "prices"}); err != nil {
		t.Fatal(err)
	}
	return first, messages(t, js, bus.Stream), unacked
}

// Taking the streams is killed again and again, and the node goes on as one
// meanwhile; then it is interrupted where the store is set aside.
func TestGrowKilled(t *testing.T) {
	serverRaces(t)
	t.Parallel()
	first, _, unacked := solo(t, 5000)
	for i := range 3 {
		if !killedWhen(t, first.Dir, "", bus.Stream, time.Duration(i)*3*time.Millisecond) {
			t.Fatal("the streams were taken before the kill")
		}
		if grownBefore(t, first.Dir) {
			t.Skip("the machine took the streams faster than the kill") // the other interruptions are below
		}
	}
	n, stop := wefttest.StartStop(t, local(), first) // it is a site of one node still
	publish(t, n.Bus(), "orders.created", "between", 100)
	before := messages(t, n.Bus().JetStream(), bus.Stream)
	stop()

	c := wefttest.PrepareCluster(t, first, 3, nil)
	grow(t, c, first)
	path := filepath.Join(first.Dir, "weft-site.json")
	pending, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	moving := strings.Replace(string(pending), "pending", "moving", 1)
	for _, name := range []string{"before the store is moved", "after it"} {
		if err := os.WriteFile(path, []byte(moving), 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "before") {
			if err := os.Rename(filepath.Join(first.Dir, "store-before-growth"), filepath.Join(first.Dir, "nats")); err != nil {
				t.Fatal(err)
			}
		}
		if g := grow(t, c, first); !g.Before || g.Messages < 5100 {
			t.Errorf("killed %s: %+v", name, g)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(pending) {
			t.Errorf("killed %s: marker is %s, want %s", name, got, pending)
		}
	}
	c.StartAll()
	sameHistory(t, c, before, unacked)
}

// grownBefore tells whether the marker says that the streams were taken.
func grownBefore(t *testing.T, dir string) bool {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "weft-site.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Growth string }
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m.Growth != ""
}

// serverRaces skips a test under the race detector in which nodes come and go
// while streams are read: the server (2.15.2) then reads its options for a direct
// get without the lock under which a changed route replaces them.
func serverRaces(t *testing.T) {
	t.Helper()
	if slowed {
		t.Skip("nats-server reads its options without their lock")
	}
}

// The node that brings the history is killed while it does, at many points. The
// others wait, make nothing of their own, and have everything in the end.
func TestHistoryKilled(t *testing.T) {
	serverRaces(t)
	t.Parallel()
	first, before, unacked := solo(t, 20000)
	c := wefttest.PrepareCluster(t, first, 3, nil)
	grow(t, c, first)
	c.Begin(1)
	c.Begin(2)
	cfg := c.Config(0)
	addrs := strings.Join([]string{cfg.Cluster.Listen, cfg.Gossip.Listen, c.Config(1).Gossip.Listen}, " ")
	kills := 0
	for _, after := range []time.Duration{0, 150, 600} {
		if !killedWhen(t, first.Dir, addrs, "restoring the site's history", after*time.Millisecond) {
			break
		}
		kills++
		for _, n := range c.Nodes[1:] {
			select {
			case <-n.Ready():
				t.Errorf("node %s is ready without the history, after %d kills", n.Node, kills)
			default:
			}
		}
	}
	if kills < 2 {
		t.Errorf("only %d kills", kills)
	}
	c.Begin(0)
	for _, n := range c.Nodes { // kills cost elections, of up to 9 s each
		wefttest.Eventually(t, 4*time.Minute, "the site has its history", func() bool {
			select {
			case <-n.Ready():
				return true
			default:
				return false
			}
		})
	}
	sameHistory(t, c, before, unacked)
}

// sameHistory wants all that was there before at each node, and the consumer
// where it was.
func sameHistory(t *testing.T, c *wefttest.Cluster, before []kept, unacked map[uint64]bool) {
	t.Helper()
	for _, n := range c.Nodes {
		if got := messages(t, n.Bus().JetStream(), bus.Stream); !slices.Equal(got, before) {
			t.Errorf("node %s has %d messages, not the %d that there were", n.Node, len(got), len(before))
		}
	}
	publish(t, c.Nodes[1].Bus(), "orders.created", "after", 20)
	rest(t, c.Nodes[2].Bus().JetStream(), unacked, len(before)+20)
}

// A site that began without its history keeps what it has; the node that has the
// history says what to do.
func TestHistoryTooLate(t *testing.T) {
	t.Parallel()
	first, _, _ := solo(t, 500)
	c := wefttest.PrepareCluster(t, first, 3, nil)
	grow(t, c, first)
	seed := c.Config(1).Gossip.Listen // the first is not there
	apart := func(cfg *mesh.Config) { cfg.Gossip.Join = []string{seed} }
	for i := range 3 {
		c.Change(i, apart)
	}
	waits := []func(){c.Begin(1), c.Begin(2)}
	other := c.Join(apart)
	for _, wait := range waits {
		wait()
	}
	publish(t, other.Bus(), "orders.created", "own", 100)
	n, err := mesh.New(c.Config(0), first)
	if err != nil {
		t.Fatal(err)
	}
	err = n.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "data: ") || !strings.Contains(err.Error(), "nothing was overwritten") {
		t.Errorf("the late node ends with %v", err)
	}
	if got := total(ids(t, other.Bus())); got != 100 {
		t.Errorf("%d events, want the 100 of the new site", got)
	}
}

// What cannot work is refused by the name of the setting, and changes nothing.
func TestGrowRefuses(t *testing.T) {
	t.Parallel()
	first, before, _ := solo(t, 50)
	good := wefttest.PrepareCluster(t, first, 3, nil).Config(0)
	run := func(cfg mesh.Config, d mesh.Deps) string {
		_, err := mesh.Grow(t.Context(), cfg, d, func(growth.Progress) {})
		return fmt.Sprint(err)
	}
	tests := []struct {
		name   string
		change func(*mesh.Config, *mesh.Deps)
		want   string
	}{
		{"no cluster", func(c *mesh.Config, _ *mesh.Deps) { c.Cluster = mesh.Cluster{Size: 1} }, "mesh.cluster.size: want 3 or more"},
		{"two nodes", func(c *mesh.Config, _ *mesh.Deps) { c.Cluster.Size = 2 }, "cluster.size: want 1, or 3 and more"},
		{"no key", func(c *mesh.Config, _ *mesh.Deps) { c.Gossip.Key = "" }, "gossip.key: want"},
		{"another site", func(_ *mesh.Config, d *mesh.Deps) { d.Site = "b" }, "site: want a, "},
		{"another node", func(_ *mesh.Config, d *mesh.Deps) { d.Node = "a-2" }, "node: want a-1, "},
		{"no data", func(_ *mesh.Config, d *mesh.Deps) { d.Dir = filepath.Join(d.Dir, "none") }, "data: want the directory of the node that has the site's history"},
		{"a smaller stream", func(c *mesh.Config, _ *mesh.Deps) { c.Events.MaxBytes = 16 << 20 }, "mesh.events.maxBytes: want at least"},
	}
	for _, tt := range tests {
		cfg, d := good, first
		tt.change(&cfg, &d)
		if got := run(cfg, d); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s\nwant %q", tt.name, got, tt.want)
		}
	}
	n, stop := wefttest.StartStop(t, local(), first)
	if got := run(good, first); !strings.Contains(got, "in use by another process") || !strings.Contains(got, "stop the node first") {
		t.Errorf("while the node runs: %s", got)
	}
	if got := messages(t, n.Bus().JetStream(), bus.Stream); !slices.Equal(got, before) {
		t.Errorf("%d messages, want %d", len(got), len(before))
	}
	stop()
	n, err := mesh.New(good, first)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `data: `) || !strings.Contains(err.Error(), `run "weft mesh grow"`) {
		t.Errorf("a cluster with the store of one node: %v", err)
	}
	other := wefttest.NewCluster(t, "c", 3, nil)
	other.Stop(0)
	d := wefttest.Deps(t, "c")
	d.Dir = other.Dir(0)
	if got := run(other.Config(0), d); !strings.Contains(got, "data: ") || !strings.Contains(got, "part of a site of several nodes already") {
		t.Errorf("a cluster's store: %s", got)
	}
}

// The streams must fit twice, and the error has the numbers.
func TestGrowRoom(t *testing.T) {
	t.Parallel()
	if err := mesh.Room("/data", 1<<30, &mesh.Disk{Free: 3 << 30}); err != nil {
		t.Errorf("enough room: %v", err)
	}
	err := mesh.Room("/data", 1<<30, &mesh.Disk{Free: 2 << 30})
	for _, want := range []string{"data: ", "2048 MiB free", "want 2215 MiB", "take 1024 MiB"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("too little room: %v, want %q", err, want)
		}
	}
}
