package wefttest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/mesh"
)

// Key is the gossip key of all sites made here.
const Key = conf.Secret("wefttest-gossip-key")

// Cluster is a site of several nodes in the process of a test. Each can be
// stopped and started again; a node comes back with its data and its addresses.
type Cluster struct {
	Site  string
	Nodes []*mesh.Node

	t    testing.TB
	cfgs []mesh.Config
	deps []mesh.Deps
	stop []func()
}

// NewCluster runs a site of size nodes until the test ends. The change, if any,
// is made to each node's configuration before it starts.
func NewCluster(t testing.TB, site string, size int, change func(i int, cfg *mesh.Config)) *Cluster {
	t.Helper()
	c := PrepareCluster(t, Deps(t, site), size, change)
	c.StartAll()
	return c
}

// PrepareCluster is NewCluster without a start; the first node is given.
func PrepareCluster(t testing.TB, first mesh.Deps, size int, change func(i int, cfg *mesh.Config)) *Cluster {
	t.Helper()
	c := &Cluster{Site: first.Site, t: t}
	for i := range size {
		c.add(size, func(cfg *mesh.Config) {
			if change != nil {
				change(i, cfg)
			}
		})
	}
	c.deps[0] = first
	t.Cleanup(func() {
		for i := range c.stop {
			c.Stop(i)
		}
	})
	return c
}

// StartAll starts the nodes together and waits until they are ready.
func (c *Cluster) StartAll() {
	c.t.Helper()
	var waits []func()
	for i := range c.Nodes {
		waits = append(waits, c.begin(i))
	}
	for _, wait := range waits {
		wait()
	}
}

// Begin starts a node; the returned function waits until it is ready.
func (c *Cluster) Begin(i int) (wait func()) {
	c.t.Helper()
	return c.begin(i)
}

// add prepares a node; the first one's gossip address is the seed of the others.
func (c *Cluster) add(size int, change func(*mesh.Config)) {
	i := len(c.cfgs)
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = ""
	cfg.Cluster = mesh.Cluster{Listen: FreeAddr(c.t), Size: size}
	cfg.Gossip = mesh.Gossip{Listen: FreeAddr(c.t), Key: Key}
	if i > 0 {
		cfg.Gossip.Join = []string{c.cfgs[0].Gossip.Listen}
	}
	change(&cfg)
	d := Deps(c.t, c.Site)
	d.Node = fmt.Sprintf("%s-%d", c.Site, i+1)
	c.cfgs, c.deps = append(c.cfgs, cfg), append(c.deps, d)
	c.Nodes, c.stop = append(c.Nodes, nil), append(c.stop, nil)
}

// Join adds a node to the running site.
func (c *Cluster) Join(change func(*mesh.Config)) *mesh.Node {
	c.t.Helper()
	if change == nil {
		change = func(*mesh.Config) {}
	}
	c.add(c.cfgs[0].Cluster.Size, change)
	i := len(c.Nodes) - 1
	c.t.Cleanup(func() { c.Stop(i) })
	c.begin(i)()
	return c.Nodes[i]
}

// Start starts a node that was stopped and waits until it is ready.
func (c *Cluster) Start(i int) {
	c.t.Helper()
	c.begin(i)()
}

// Config is a node's configuration.
func (c *Cluster) Config(i int) mesh.Config { return c.cfgs[i] }

// Dir is a node's data directory.
func (c *Cluster) Dir(i int) string { return c.deps[i].Dir }

// Change changes a node's configuration for its next start.
func (c *Cluster) Change(i int, change func(*mesh.Config)) { change(&c.cfgs[i]) }

// Stop stops a node in good order.
func (c *Cluster) Stop(i int) {
	if stop := c.stop[i]; stop != nil {
		c.stop[i] = nil
		stop()
	}
}

// begin starts a node; the returned function waits until it is ready.
func (c *Cluster) begin(i int) (wait func()) {
	c.t.Helper()
	n, err := mesh.New(c.cfgs[i], c.deps[i])
	if err != nil {
		c.t.Fatalf("make node: %v", err)
	}
	c.Nodes[i] = n
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	c.stop[i] = func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("node %s: %v", n.Node, err)
		}
	}
	return func() {
		c.t.Helper()
		select {
		case <-n.Ready():
		case err := <-done:
			done <- err
			c.t.Fatalf("start node %s: %v", n.Node, err)
		case <-time.After(startTimeout):
			c.t.Fatalf("node %s is not ready after %s", n.Node, startTimeout)
		}
	}
}
