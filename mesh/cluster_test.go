package mesh_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// Three nodes that know one address form a site; what one accepts, all hold.
func TestClusterForms(t *testing.T) {
	t.Parallel()
	start := time.Now()
	c := wefttest.NewCluster(t, "a", 3, nil)
	t.Logf("writable after %s", time.Since(start))
	for i, n := range c.Nodes {
		publish(t, n.Bus(), "orders.created", n.Node, 100)
		if got := len(n.Members()); got != 3 {
			t.Errorf("node %d sees %d members, want 3", i, got)
		}
	}
	for _, n := range c.Nodes {
		wefttest.Eventually(t, 10*time.Second, "all events", func() bool { return total(ids(t, n.Bus())) == 300 })
	}
}

// A fourth node joins while the site works: nothing fails, and it serves.
func TestClusterGrows(t *testing.T) {
	t.Parallel()
	c := wefttest.NewCluster(t, "a", 3, nil)
	ctx, stop := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	accepted := 0
	first := c.Nodes[0].Bus()
	publishing.Go(func() { accepted = stream(ctx, t, first, "a") })
	start := time.Now()
	n := c.Join(nil)
	t.Logf("usable after %s", time.Since(start))
	publish(t, n.Bus(), "orders.created", "new", 50)
	stop()
	publishing.Wait()
	wefttest.Eventually(t, 10*time.Second, "all events at the new node", func() bool { return total(ids(t, n.Bus())) == accepted+50 })
}

// The node that leads the stream goes in good order; another takes over, and no
// publish fails.
func TestClusterLosesItsLeader(t *testing.T) {
	t.Parallel()
	c := wefttest.NewCluster(t, "a", 3, nil)
	for round := range 3 {
		lead := leader(t, c)
		other := (lead + 1) % 3
		ctx, stop := context.WithCancel(t.Context())
		var publishing sync.WaitGroup
		accepted := 0
		by := c.Nodes[other].Bus()
		publishing.Go(func() { accepted = stream(ctx, t, by, fmt.Sprint(round)) })
		c.Stop(lead)
		wefttest.Eventually(t, 15*time.Second, "another leader", func() bool {
			l := leader(t, c)
			return l >= 0 && l != lead
		})
		before := total(ids(t, c.Nodes[other].Bus()))
		wefttest.Eventually(t, 15*time.Second, "publishing goes on", func() bool { return total(ids(t, c.Nodes[other].Bus())) > before })
		stop()
		publishing.Wait()
		c.Start(lead)
		got := 0
		for _, id := range ids(t, c.Nodes[lead].Bus())["a"] {
			if strings.HasPrefix(id, fmt.Sprint(round)+"-") {
				if id != fmt.Sprintf("%d-%d", round, got) {
					t.Fatalf("event %d is %s", got, id)
				}
				got++
			}
		}
		if got != accepted {
			t.Errorf("%d events of round %d, want the %d accepted", got, round, accepted)
		}
	}
}

// leader is the index of the node that leads EVENTS; -1: none.
func leader(t *testing.T, c *wefttest.Cluster) int {
	t.Helper()
	for _, n := range c.Nodes {
		s, err := n.Bus().JetStream().Stream(t.Context(), bus.Stream)
		if err != nil {
			continue
		}
		info := s.CachedInfo().Cluster
		return slices.IndexFunc(c.Nodes, func(o *mesh.Node) bool { return info != nil && info.Leader == o.Site+":"+o.Node })
	}
	return -1
}

// Two sites of three nodes each: a link goes on when the node that imports, or
// the one that exports, goes away.
func TestClustersLinked(t *testing.T) {
	t.Parallel()
	link := func(name string, urls ...string) mesh.Link {
		return mesh.Link{Name: name, URLs: urls, Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}
	}
	a := wefttest.NewCluster(t, "a", 3, func(_ int, cfg *mesh.Config) {
		cfg.Links.Listen = "127.0.0.1:0"
		cfg.Links.Sites = []mesh.Link{link("b")}
	})
	var urls []string
	for _, n := range a.Nodes {
		urls = append(urls, n.LinkURL())
	}
	b := wefttest.NewCluster(t, "b", 3, func(_ int, cfg *mesh.Config) { cfg.Links.Sites = []mesh.Link{link("a", urls...)} })
	want := 0
	both := func(prefix string) {
		t.Helper()
		for _, c := range []*wefttest.Cluster{a, b} {
			i := slices.IndexFunc(c.Nodes, func(n *mesh.Node) bool { return n.Bus().Conn().IsConnected() })
			publish(t, c.Nodes[i].Bus(), "orders.created", c.Site+prefix, 200)
			want += 200
		}
	}
	both("1")
	level(t, a.Nodes[0].Bus(), b.Nodes[0].Bus(), want)
	for _, c := range []*wefttest.Cluster{a, b} {
		lead := leader(t, c)
		c.Stop(lead)
		both("after" + c.Site)
		other := func(c *wefttest.Cluster) *bus.Bus {
			return c.Nodes[slices.IndexFunc(c.Nodes, func(n *mesh.Node) bool { return n.Bus().Conn().IsConnected() })].Bus()
		}
		level(t, other(a), other(b), want)
		c.Start(lead)
	}
}

// A node that is gone for good is taken out of the cluster, and the node that
// came for it takes its part. One that runs is not.
func TestClusterRemoves(t *testing.T) {
	t.Parallel()
	c := wefttest.NewCluster(t, "a", 3, nil)
	publish(t, c.Nodes[0].Bus(), "orders.created", "a", 100)
	c.Join(nil)
	gone := (leader(t, c) + 1) % 3 // one that keeps the stream, and does not lead it
	by := c.Nodes[leader(t, c)]
	if err := by.Remove(t.Context(), c.Nodes[gone].Node); err == nil {
		t.Error("a running node was removed")
	}
	if err := by.Remove(t.Context(), "nobody"); err == nil {
		t.Error("a node that is not there was removed")
	}
	c.Stop(gone)
	wefttest.Eventually(t, 20*time.Second, "the node to be removed", func() bool { return by.Remove(t.Context(), c.Nodes[gone].Node) == nil })
	wefttest.Eventually(t, 20*time.Second, "three current replicas without it", func() bool {
		return currentReplicas(t, by) == 3
	})
}

// The site's key is changed by restarting one node after the other.
func TestClusterChangesKey(t *testing.T) {
	t.Parallel()
	c := wefttest.NewCluster(t, "a", 3, func(_ int, cfg *mesh.Config) { cfg.Cluster.Secret = wefttest.Secret })
	const next = conf.Secret("the next key of the site")
	for round, gossip := range []struct {
		key conf.Secret
		old []conf.Secret
	}{{wefttest.Key, []conf.Secret{next}}, {next, []conf.Secret{wefttest.Key}}, {next, nil}} {
		for i := range c.Nodes {
			c.Stop(i)
			c.Change(i, func(cfg *mesh.Config) { cfg.Gossip.Key, cfg.Gossip.OldKeys = gossip.key, gossip.old })
			c.Start(i)
			publish(t, c.Nodes[i].Bus(), "orders.created", fmt.Sprintf("%d-%d", round, i), 10)
			wefttest.Eventually(t, 20*time.Second, "all replicas current", func() bool { return currentReplicas(t, c.Nodes[i]) == 3 })
		}
	}
	if got := total(ids(t, c.Nodes[0].Bus())); got != 90 {
		t.Errorf("%d events, want 90", got)
	}
}

// currentReplicas counts the replicas of EVENTS that have all that the leader has.
func currentReplicas(t *testing.T, n *mesh.Node) int {
	t.Helper()
	s, err := n.Bus().JetStream().Stream(t.Context(), bus.Stream)
	if err != nil || s.CachedInfo().Cluster == nil || s.CachedInfo().Cluster.Leader == "" {
		return 0
	}
	current := 1 // the leader
	for _, r := range s.CachedInfo().Cluster.Replicas {
		if r.Current && !r.Offline {
			current++
		}
	}
	return current
}

// With certificates the nodes of a site speak TLS to each other; a node without
// one of the authority is kept out.
func TestClusterTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	certs := ca.site(t, "a", "127.0.0.1")
	c := wefttest.NewCluster(t, "a", 3, func(_ int, cfg *mesh.Config) { cfg.TLS = certs })
	publish(t, c.Nodes[1].Bus(), "orders.created", "a", 100)
	wefttest.Eventually(t, 20*time.Second, "all replicas current", func() bool { return currentReplicas(t, c.Nodes[0]) == 3 })
	for name, cfg := range map[string]*tls.Config{"none": nil, "no certificate": {InsecureSkipVerify: true}} {
		conn, err := net.Dial("tcp", c.Config(0).Cluster.Listen)
		if err != nil {
			t.Fatal(err)
		}
		if cfg != nil {
			conn = tls.Client(conn, cfg)
		}
		if info, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			t.Errorf("%s: the route listener lets in: %s", name, info)
		}
		_ = conn.Close()
	}
}
