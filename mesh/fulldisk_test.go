package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// try publishes one event.
func try(ctx context.Context, b *bus.Bus, id string) error {
	e := event.Event{ID: id, Data: make([]byte, 1000)}
	e.Fill(event.Defaults{Subject: "orders.created", Source: "/test", Now: time.Now()})
	_, err := b.Publish(ctx, bus.Publication{Subject: "orders.created", Event: e})
	return err
}

// load publishes with several publishers until it is stopped, and then returns
// the ids of what was acknowledged.
func load(t *testing.T, b *bus.Bus, prefix string) (stop func() []string) {
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	acked := make([][]string, 8)
	for p := range acked {
		publishing.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%s-%d-%d", prefix, p, i)
				if try(context.WithoutCancel(ctx), b, id) == nil {
					acked[p] = append(acked[p], id)
				} else {
					run.Pause(ctx, 10*time.Millisecond)
				}
			}
		})
	}
	return func() []string { cancel(); publishing.Wait(); return slices.Concat(acked...) }
}

// stored wants each of the ids once in a site's stream.
func stored(t *testing.T, b *bus.Bus, want []string) {
	t.Helper()
	times := map[string]int{}
	for _, id := range ids(t, b)["a"] {
		times[id]++
	}
	var lost, doubled []string
	for _, id := range want {
		if times[id] == 0 {
			lost = append(lost, id)
		}
	}
	for id, n := range times {
		if n > 1 {
			doubled = append(doubled, id)
		}
	}
	if len(lost)+len(doubled) > 0 {
		t.Errorf("of %d acknowledged events %d are lost, %d are doubled: %.5s %.5s", len(want), len(lost), len(doubled), lost, doubled)
	}
	t.Logf("%d events acknowledged, %d stored", len(want), len(times))
}

// follow counts what a reader and a durable consumer are given of a stream from
// its start, the latter perhaps twice.
func follow(t *testing.T, b *bus.Bus) (read, consumed *atomic.Int64) {
	t.Helper()
	read, consumed = new(atomic.Int64), new(atomic.Int64)
	ctx, stop := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		if err := b.Read(ctx, bus.ReadConfig{}, func(event.Stored) error { read.Add(1); return nil }); err != nil {
			t.Errorf("read: %v", err)
		}
	})
	following.Go(func() {
		cfg := bus.ConsumeConfig{Durable: "follower", From: "all"}
		if err := b.Consume(ctx, cfg, func(_ context.Context, d *bus.Delivery) error { consumed.Add(1); return d.Ack() }); err != nil {
			t.Errorf("consume: %v", err)
		}
	})
	t.Cleanup(func() { stop(); following.Wait() })
	return read, consumed
}

// A disk that is full refuses events at once and by name, loses none that were
// acknowledged, and takes events again when there is space.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	deps := wefttest.Deps(t, "a")
	v := wefttest.Mount(t, deps.Dir)
	n := wefttest.Start(t, local(), deps)
	b := n.Bus()
	publish(t, b, "orders.created", "before", 100)
	read, consumed := follow(t, b)
	stop := load(t, b, "load")
	v.Fill()
	wefttest.Eventually(t, 5*time.Second, "a refusal by name", func() bool { return errors.Is(try(t.Context(), b, "full"), bus.ErrDiskFull) })
	start := time.Now()
	if err := try(t.Context(), b, "full"); !errors.Is(err, bus.ErrDiskFull) || !errors.Is(err, bus.ErrUnavailable) || time.Since(start) > time.Second {
		t.Errorf("a publish on a full disk: %v after %s", err, time.Since(start))
	}
	if f := named(t, n, "disk_full"); f.Severity != mesh.SeverityError || f.Subject != "a-1" {
		t.Errorf("finding = %+v", f)
	}
	if got := count(t, b); got < 100 || n.Trouble() == nil {
		t.Errorf("a full disk serves %d events; trouble: %v", got, n.Trouble())
	}
	v.Free()
	wefttest.Eventually(t, 20*time.Second, "events taken again", func() bool { return try(t.Context(), b, "after") == nil })
	stored(t, b, append(stop(), "after"))
	want := count(t, b)
	wefttest.Eventually(t, 45*time.Second, "all events at both that follow", func() bool {
		return read.Load() == int64(want) && consumed.Load() >= int64(want)
	})
	if err := n.Trouble(); err != nil {
		t.Error(err)
	}
	for _, f := range diagnosis(t, n).Findings {
		if f.Code == "disk_full" {
			t.Errorf("still %+v", f)
		}
	}
}

// volumes puts the data of a site's nodes on volumes, where they have it already.
func volumes(t *testing.T, c *wefttest.Cluster, nodes ...int) (out []wefttest.Volume) {
	t.Helper()
	for _, i := range nodes {
		c.Stop(i)
		was := t.TempDir()
		copyDir(t, c.Dir(i), was)
		out = append(out, wefttest.Mount(t, c.Dir(i)))
		copyDir(t, was, c.Dir(i))
		c.Start(i)
	}
	return out
}

// settled waits until all copies of a site's stream are current and returns the
// node that leads.
func settled(t *testing.T, c *wefttest.Cluster) (leader int) {
	t.Helper()
	wefttest.Eventually(t, 30*time.Second, "a leader and current copies", func() bool {
		st, err := c.Nodes[2].Status(t.Context())
		leader = slices.IndexFunc(c.Nodes, func(n *mesh.Node) bool { return n.Node == st.Stream.Leader })
		return err == nil && leader >= 0 && len(st.Stream.Replicas) == 3 &&
			!slices.ContainsFunc(st.Stream.Replicas, func(r mesh.Replica) bool { return !r.Current })
	})
	return leader
}

// The leader of three has a full disk: the others go on, and it takes part again
// when there is space.
func TestFullDiskOfALeader(t *testing.T) {
	t.Parallel()
	c := wefttest.NewCluster(t, "a", 3, nil)
	v := volumes(t, c, 0)[0]
	for settled(t, c) != 0 {
		if _, err := c.Nodes[0].Bus().Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN.EVENTS", nil, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	stops := []func() []string{load(t, c.Nodes[0].Bus(), "0"), load(t, c.Nodes[1].Bus(), "1")}
	v.Fill()
	wefttest.Eventually(t, 10*time.Second, "the node to tell", func() bool { return c.Nodes[0].Trouble() != nil })
	for i, n := range c.Nodes {
		if err := try(t.Context(), n.Bus(), fmt.Sprint("meanwhile-", i)); err != nil {
			t.Errorf("publish at node %s: %v", n.Node, err)
		}
	}
	for _, n := range c.Nodes {
		f := named(t, n, "disk_full")
		if f.Subject != "a-1" {
			t.Errorf("finding at %s = %+v", n.Node, f)
		}
		if st, err := n.Status(t.Context()); err != nil || len(st.Nodes) != 3 || slices.ContainsFunc(st.Nodes, func(s mesh.NodeStatus) bool { return !s.Up }) {
			t.Errorf("nodes as %s sees them: %+v, %v", n.Node, st.Nodes, err)
		}
	}
	v.Free()
	wefttest.Eventually(t, 20*time.Second, "the node to take events", func() bool { return c.Nodes[0].Trouble() == nil })
	settled(t, c)
	var want []string
	for _, stop := range stops {
		want = append(want, stop()...)
	}
	stored(t, c.Nodes[0].Bus(), want)
}

// The disks of all nodes are full, as they will be if the machines are alike:
// nothing is taken, and the site goes on by itself when there is space.
func TestFullDisksOfASite(t *testing.T) {
	t.Parallel()
	c := wefttest.NewCluster(t, "a", 3, nil)
	vs := volumes(t, c, 0, 1, 2)
	settled(t, c)
	stop := load(t, c.Nodes[0].Bus(), "0")
	for _, v := range vs {
		v.Fill()
	}
	for _, n := range c.Nodes {
		wefttest.Eventually(t, 10*time.Second, "the node to tell", func() bool { return n.Trouble() != nil })
	}
	for _, v := range vs {
		v.Free()
	}
	for _, n := range c.Nodes {
		wefttest.Eventually(t, 30*time.Second, "the node to take events", func() bool { return n.Trouble() == nil && try(t.Context(), n.Bus(), "after") == nil })
	}
	settled(t, c)
	stored(t, c.Nodes[1].Bus(), stop())
}

// The memory file system for staging is full, by whatever else uses it: commits
// are staged on disk from then on, and the events of linked sites still come.
func TestFullStaging(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	link := filepath.Join(p.deps["b"].Dir, "nats/jetstream/WEFT/streams/EVENTS/batches")
	area, err := os.Readlink(link)
	if err != nil {
		t.Skipf("no memory file system is used here: %v", err)
	}
	wefttest.Mount(t, area).Fill()
	publish(t, p.node["b"].Bus(), "orders.created", "b", 200)
	publish(t, p.node["a"].Bus(), "orders.created", "a", 200)
	level(t, p.node["a"].Bus(), p.node["b"].Bus(), 400)
	if info, err := os.Lstat(link); err == nil && !info.IsDir() {
		t.Errorf("staging is still %s", info.Mode())
	}
	if err := p.node["b"].Trouble(); err != nil {
		t.Error(err)
	}
	st, err := p.node["b"].Status(t.Context())
	if err != nil || slices.ContainsFunc(st.Links[0].Incidents, func(i mesh.Incident) bool { return i.Kind == "refused" }) {
		t.Errorf("link = %+v, %v", st.Links, err)
	}
}
