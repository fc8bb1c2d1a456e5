package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/mesh/gossip"
)

// Cluster makes a site of several nodes.
type Cluster struct {
	Listen    string      `yaml:"listen" doc:"Address that the other nodes of the site connect to; needed for a size of 3 or more"`
	Advertise string      `yaml:"advertise" doc:"Address at which the others reach listen, if it is another, such as behind NAT"`
	Secret    conf.Secret `yaml:"secret" doc:"What admits nodes to the cluster, any text of at least 16 characters; default: it follows from gossip.key, which can then not be changed while the site runs"`
	Size      int         `yaml:"size" doc:"Nodes that the site begins with: 1, or 3 and more. All of them have the same number"`
}

// Gossip is how the nodes of a site find each other.
type Gossip struct {
	Listen    string        `yaml:"listen" doc:"Address, UDP and TCP, at which the nodes of the site find each other"`
	Advertise string        `yaml:"advertise" doc:"Address at which the others reach listen, if it is another"`
	Join      []string      `yaml:"join" doc:"Addresses of other nodes of the site; one that is up is enough"`
	Key       conf.Secret   `yaml:"key" doc:"Key of the site, any text of at least 16 characters, the same at all its nodes: it encrypts gossip and admits nodes to the cluster"`
	OldKeys   []conf.Secret `yaml:"oldKeys" doc:"Keys that are understood besides, while the key is being changed node by node"`
}

// Clustered tells whether the site has several nodes.
func (c Config) Clustered() bool { return c.Cluster.Size > 1 }

// Replicas is how many nodes keep each event and all that must outlive a node.
func (c Config) Replicas() int {
	switch {
	case c.Events.Replicas > 0:
		return c.Events.Replicas
	case c.Clustered():
		return 3
	}
	return 1
}

func (c Config) validateCluster() error {
	errs := []error{conf.AtLeast("cluster.size", c.Cluster.Size, 1)}
	if c.Cluster.Size == 2 {
		errs = append(errs, conf.Field("cluster.size", "want 1, or 3 and more: of two nodes neither can go on without the other"))
	}
	if r := c.Events.Replicas; r != 0 && r != 1 && r != 3 && r != 5 || r > max(c.Cluster.Size, 1) {
		errs = append(errs, conf.Field("events.replicas", fmt.Sprintf("want 1, 3 or 5, at most cluster.size, which is %d; 0: as many as fit", c.Cluster.Size)))
	}
	for _, a := range []struct{ key, addr string }{
		{"cluster.listen", c.Cluster.Listen},
		{"cluster.advertise", c.Cluster.Advertise},
		{"gossip.listen", c.Gossip.Listen},
		{"gossip.advertise", c.Gossip.Advertise},
	} {
		needed := c.Clustered() && strings.HasSuffix(a.key, "listen")
		if a.addr != "" || needed {
			errs = append(errs, conf.HostPort(a.key, a.addr))
		}
	}
	for i, a := range c.Gossip.Join {
		errs = append(errs, conf.HostPort(conf.Item("gossip.join", i), a))
	}
	if c.Clustered() && len(c.Gossip.Key.Reveal()) < minSecret {
		errs = append(errs, conf.Field("gossip.key", "want the key of the site, at least 16 characters"))
	}
	if s := c.Cluster.Secret.Reveal(); s != "" && len(s) < minSecret {
		errs = append(errs, conf.Field("cluster.secret", "want at least 16 characters"))
	}
	if len(c.Gossip.OldKeys) > 0 && c.Cluster.Secret == "" {
		errs = append(errs, conf.Field("gossip.oldKeys", "want cluster.secret as well: it follows from the key otherwise, and nodes with different keys would refuse each other"))
	}
	for i, k := range c.Gossip.OldKeys {
		if len(k.Reveal()) < minSecret {
			errs = append(errs, conf.Field(conf.Item("gossip.oldKeys", i), "want at least 16 characters"))
		}
	}
	return errors.Join(errs...)
}

const (
	// formedFile marks a node that has been part of its cluster: it need not wait
	// for the others to start.
	formedFile = "weft-formed"
	// settle is how long such a node looks for others before it starts, and how
	// long changes of membership gather before routes change.
	settle = 100 * time.Millisecond
	// lonely is how long a node that was part of the cluster waits for a first
	// other node: routes can also come later.
	lonely = time.Second
	// callTimeout is how long a node that sees all others waits for the call.
	callTimeout = 2 * time.Second
	// voteTimeout is how long a first vote takes that is not split: 0.8 s until it
	// begins, and a margin.
	voteTimeout = 1200 * time.Millisecond
	// barrierNews is how often a node that waits says for whom.
	barrierNews = 5 * time.Second
)

// site is the node's part in a site of several nodes.
type site struct {
	node   *Node
	pool   *gossip.Pool
	end    context.CancelFunc
	done   chan error
	routes []string // addresses of the other nodes; owned by follow once it runs
}

// join takes part in the site's gossip and returns when the server may start: at
// first when all nodes that the site begins with are there, so that they elect
// their leader at once.
func (n *Node) join(ctx context.Context) (*site, error) {
	if err := n.fixPorts(ctx); err != nil {
		return nil, err
	}
	keys := []string{n.cfg.Gossip.Key.Reveal()}
	for _, k := range n.cfg.Gossip.OldKeys {
		keys = append(keys, k.Reveal())
	}
	route := n.cfg.Cluster.Advertise
	if route == "" {
		route = n.cfg.Cluster.Listen
	}
	scope := n.Scope
	scope.Log = n.Log.With("component", "gossip")
	pool, err := gossip.Open(gossip.Config{
		Site: n.Site, Node: n.Node, Listen: n.cfg.Gossip.Listen, Advertise: n.cfg.Gossip.Advertise,
		Join: n.cfg.Gossip.Join, Keys: keys,
		Self: gossip.Meta{Site: n.Site, Size: n.cfg.Cluster.Size, Route: route, Version: n.Version, Growing: n.growth.dir != ""},
	}, scope)
	if err != nil {
		return nil, fmt.Errorf("join site: %w", conf.Field("mesh.gossip.listen", err.Error()))
	}
	own, end := context.WithCancel(context.WithoutCancel(ctx))
	s := &site{node: n, pool: pool, end: end, done: make(chan error, 1)}
	go func() { s.done <- pool.Run(own) }() // ended by leave
	n.mu.Lock()
	n.site = s
	n.mu.Unlock()
	if err := s.barrier(ctx); err != nil {
		s.leave(ctx)
		return nil, err
	}
	s.routes = s.addresses()
	n.growth.from = pool.Growing()
	return s, nil
}

// leave says farewell to the other nodes.
func (s *site) leave(ctx context.Context) {
	s.end()
	if err := <-s.done; err != nil {
		s.node.Log.WarnContext(ctx, "gossip not left", "err", err)
	}
}

// barrier waits for the nodes that the site begins with. The first of them calls
// all when it sees them, so that they start within milliseconds of each other: a
// node that votes before the others are up costs the site an election of 4 to 9 s.
func (s *site) barrier(ctx context.Context) error {
	n := s.node
	news := time.NewTicker(barrierNews)
	defer news.Stop()
	want, formed := n.cfg.Cluster.Size, n.formed()
	alone := time.NewTimer(lonely)
	defer alone.Stop()
	var uncalled <-chan time.Time // the call may be lost
	for {
		there := s.pool.Members()
		switch {
		case formed && len(there) > 1, len(there) > want:
			return nil
		case len(there) == want && uncalled == nil:
			uncalled = time.After(callTimeout)
			if there[0].Node == n.Node {
				s.pool.Call(ctx)
			}
		}
		select {
		case <-s.pool.Changed():
		case <-s.pool.Called():
			return nil
		case <-uncalled:
			return nil
		case <-alone.C:
			if formed {
				return nil
			}
		case <-news.C:
			n.Log.InfoContext(ctx, "waiting for the other nodes of the site", "there", names(there), "size", want)
		case <-ctx.Done():
			return fmt.Errorf("wait for %d nodes of site %s, %v are there: %w", want, n.Site, names(there), ctx.Err())
		}
	}
}

// elect waits for the site's first election and returns the running server. A
// split vote would hold the site up for 4 to 9 s, since only a server's first vote
// comes within a second of its start: so the first of the nodes starts its server
// again, and then votes alone. Nothing is served yet.
func (n *Node) elect(ctx context.Context, s *embedded) (*embedded, error) {
	for range 3 {
		if s.led(ctx, voteTimeout) {
			return s, nil
		}
		there := n.Members()
		if ctx.Err() != nil || len(there) == 0 || there[0].Node != n.Node || len(there) <= n.cfg.Cluster.Size/2 {
			return s, nil
		}
		n.Log.DebugContext(ctx, "split vote: the server starts again")
		s.conn.Close()
		s.Shutdown()
		s.WaitForShutdown()
		var err error
		if s, err = n.start(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// led waits until the cluster has a leader and tells whether it has.
func (s *embedded) led(ctx context.Context, within time.Duration) bool {
	for until := time.Now().Add(within); ctx.Err() == nil && time.Now().Before(until); run.Pause(ctx, 20*time.Millisecond) {
		if z, err := s.Jsz(nil); err == nil && z.Meta != nil && z.Meta.Leader != "" {
			return true
		}
	}
	return false
}

func names(members []gossip.Member) []string {
	out := make([]string, len(members))
	for i, m := range members {
		out[i] = m.Node
	}
	return out
}

// addresses are the routes to the nodes that are there, and those known before:
// a node that gossip has lost from sight may still be connected, or come back.
func (s *site) addresses() []string {
	out := slices.Clone(s.routes)
	for _, m := range s.pool.Members() {
		if m.Node != s.node.Node && !slices.Contains(out, m.Route) {
			out = append(out, m.Route)
		}
	}
	slices.Sort(out)
	return out
}

// follow brings changes of membership to the server until ctx ends.
func (s *site) follow(ctx context.Context) error {
	for {
		select {
		case <-s.pool.Changed():
		case <-ctx.Done():
			return nil
		}
		run.Pause(ctx, settle)
		next := s.addresses()
		if slices.Equal(next, s.routes) || ctx.Err() != nil {
			continue
		}
		s.node.mu.Lock()
		s.routes = next
		s.node.mu.Unlock()
		s.node.Log.InfoContext(ctx, "nodes of the site changed", "nodes", names(s.pool.Members()))
		if err := s.node.reload(); err != nil {
			s.node.Log.ErrorContext(ctx, "routes not changed", "err", err)
		}
	}
}

// formed tells whether this node has been part of its cluster before.
func (n *Node) formed() bool {
	_, err := os.Stat(filepath.Join(n.Dir, formedFile))
	return err == nil
}

func (n *Node) setFormed() error {
	if !n.cfg.Clustered() || n.formed() {
		return nil
	}
	return writeWhole(filepath.Join(n.Dir, formedFile), nil)
}

// fixPorts chooses the ports that others are told of before the server listens.
func (n *Node) fixPorts(ctx context.Context) error {
	for _, addr := range []*string{&n.cfg.Cluster.Listen} {
		host, port, err := net.SplitHostPort(*addr)
		if err != nil || port != "0" {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *addr)
		if err != nil {
			return fmt.Errorf("choose a port: %w", err)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		if err := l.Close(); err != nil {
			return fmt.Errorf("choose a port: %w", err)
		}
		*addr = net.JoinHostPort(host, port)
	}
	return nil
}

// Members are the nodes of the site that are there; none at a site of one node.
func (n *Node) Members() []gossip.Member {
	n.mu.Lock()
	s := n.site
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.pool.Members()
}
