package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// world is all that runs: the sites, and the network between them.
type world struct {
	cfg   Config
	dir   string
	sites []*site
	links []*link
	ports *ports
	spawn *spawner
}

// site is one site and what is counted there.
type site struct {
	name  string
	edge  bool
	nodes []*node
	gaps  gaps
}

// link is what joins two sites; a dials.
type link struct {
	a, b *site
	line *line
}

func (l *link) name() string { return l.a.name + "-" + l.b.name }

// siteNames are the core sites and the edge sites of a run.
func siteNames(cfg Config) (cores, edges []string) {
	for i := range cfg.Sites {
		cores = append(cores, fmt.Sprintf("core%d", i+1))
	}
	for i := range cfg.Edges {
		edges = append(edges, fmt.Sprintf("edge%d", i+1))
	}
	return cores, edges
}

// linkNames are the links of a run: each core with each, each edge with its homes.
func linkNames(cfg Config) (pairs [][2]string) {
	cores, edges := siteNames(cfg)
	for i, a := range cores {
		for _, b := range cores[i+1:] {
			pairs = append(pairs, [2]string{a, b})
		}
	}
	for i, e := range edges {
		for home := range min(cfg.Homes, len(cores)) {
			pairs = append(pairs, [2]string{e, cores[(i+home)%len(cores)]})
		}
	}
	return pairs
}

// newWorld makes folders, addresses and configurations; nothing runs yet but
// the proxies.
func newWorld(cfg Config, dir string) (*world, error) {
	w := &world{cfg: cfg, dir: dir, ports: newPorts(), spawn: newSpawner()}
	cores, edges := siteNames(cfg)
	for _, name := range cores {
		w.addSite(name, cfg.Nodes, false)
	}
	for _, name := range edges {
		w.addSite(name, 1, true)
	}
	for _, pair := range linkNames(cfg) {
		w.links = append(w.links, &link{a: w.site(pair[0]), b: w.site(pair[1]), line: newLine()})
	}
	if err := w.configure(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) addSite(name string, size int, edge bool) {
	s := &site{name: name, edge: edge}
	for i := range size {
		n := &node{name: fmt.Sprintf("%s-%d", name, i+1), site: s, spawn: w.spawn}
		n.dir = filepath.Join(w.dir, n.name)
		for _, addr := range []*string{&n.client, &n.cluster, &n.gossip, &n.links, &n.gateway, &n.admin} {
			*addr = w.ports.next()
		}
		s.nodes = append(s.nodes, n)
	}
	w.sites = append(w.sites, s)
}

func (w *world) site(name string) *site {
	i := slices.IndexFunc(w.sites, func(s *site) bool { return s.name == name })
	return w.sites[i]
}

func (w *world) link(name string) *link {
	i := slices.IndexFunc(w.links, func(l *link) bool { return l.name() == name })
	return w.links[i]
}

func (w *world) nodes() (out []*node) {
	for _, s := range w.sites {
		out = append(out, s.nodes...)
	}
	return out
}

// configure writes the nodes' configurations.
func (w *world) configure() error {
	if w.ports.err != nil {
		return w.ports.err
	}
	for _, n := range w.nodes() {
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return err
		}
	}
	sections := map[*site]*strings.Builder{}
	for _, s := range w.sites {
		sections[s] = &strings.Builder{}
	}
	for _, l := range w.links {
		var urls []string
		for _, n := range l.b.nodes {
			addr, err := l.line.to(w.ports.next(), n.links)
			if err != nil {
				return fmt.Errorf("listen for link %s: %w", l.name(), err)
			}
			urls = append(urls, strconv.Quote("nats://"+addr))
		}
		const entry = "      - {name: %s, urls: [%s], secret: %s, export: [\">\"], import: [\">\"], %s: true}\n"
		secret := "chaos-link-secret-of-" + l.name()
		there, here := "relays", "relays" // what b is to a, and a to b
		if l.a.edge {
			there, here = "home", "edge"
		}
		fmt.Fprintf(sections[l.a], entry, l.b.name, strings.Join(urls, ", "), secret, there)
		fmt.Fprintf(sections[l.b], entry, l.a.name, "", secret, here)
	}
	for _, s := range w.sites {
		for _, n := range s.nodes {
			if err := os.WriteFile(filepath.Join(n.dir, "weft.yaml"), []byte(n.config(sections[s].String())), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// config is a node's configuration file.
func (n *node) config(links string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "site: %s\nnode: %s\ndata: %s\nmesh:\n", n.site.name, n.name, strconv.Quote(n.data()))
	fmt.Fprintf(&b, "  client: {listen: %s}\n", n.client)
	if len(n.site.nodes) > 1 {
		var join []string
		for _, other := range n.site.nodes {
			if other != n {
				join = append(join, strconv.Quote(other.gossip))
			}
		}
		fmt.Fprintf(&b, "  cluster: {listen: %s, size: %d}\n", n.cluster, len(n.site.nodes))
		fmt.Fprintf(&b, "  gossip: {listen: %s, join: [%s], key: chaos-gossip-key-of-%s}\n", n.gossip, strings.Join(join, ", "), n.site.name)
	}
	if links != "" {
		b.WriteString("  links:\n")
		if !n.site.edge {
			fmt.Fprintf(&b, "    listen: %s\n", n.links)
		}
		b.WriteString("    sites:\n" + links)
	}
	fmt.Fprintf(&b, "gateway: {listen: %s}\nadmin: {listen: %s}\n", n.gateway, n.admin)
	b.WriteString("telemetry: {traces: {sample: 0}}\n")
	return b.String()
}

// How long the start may take, on a machine that is busy with all of it.
const (
	startTimeout = 60 * time.Second
	linkTimeout  = 30 * time.Second
)

// start runs all nodes and waits until they are ready and linked.
func (w *world) start(ctx context.Context) error {
	for _, n := range w.nodes() {
		if err := n.start(w.cfg.Binary); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, n := range w.nodes() {
		var err error
		if !poll(wait, 50*time.Millisecond, func() bool { err = n.ready(wait); return err == nil || !n.running() }) || err != nil {
			return fmt.Errorf("node %s does not get ready: %w%s", n.name, err, n.tail())
		}
	}
	wait, cancel = context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	for _, s := range w.sites {
		var err error
		if !poll(wait, 100*time.Millisecond, func() bool { err = s.linked(wait); return err == nil }) {
			return fmt.Errorf("site %s is not linked: %w", s.name, err)
		}
	}
	return nil
}

// linked tells whether the site has a leader and imports over all its links.
func (s *site) linked(ctx context.Context) error {
	st, err := s.status(ctx)
	if err != nil {
		return err
	}
	if st.Stream.Leader == "" {
		return errors.New("its stream has no leader")
	}
	for _, l := range st.Links {
		if !l.Up || !l.Importing {
			return fmt.Errorf("link to %s: up %t, importing %t, %s", l.Site, l.Up, l.Importing, l.Problem)
		}
	}
	return nil
}

// status is the site's state as a node that answers sees it.
func (s *site) status(ctx context.Context) (st status, err error) {
	err = fmt.Errorf("no node of %s runs", s.name)
	for _, n := range s.nodes {
		if !n.running() {
			continue
		}
		if st, err = n.status(ctx); err == nil {
			return st, nil
		}
	}
	return st, err
}

// whole tells whether every node is ready and every copy of the stream has all.
func (s *site) whole(ctx context.Context) error {
	for _, n := range s.nodes {
		if err := n.ready(ctx); err != nil {
			return err
		}
	}
	st, err := s.status(ctx)
	switch {
	case err != nil:
		return err
	case st.Problem != "":
		return errors.New(st.Problem)
	case st.Stream.Leader == "":
		return errors.New("the stream has no leader")
	case len(st.Stream.Replicas) != min(len(s.nodes), 3):
		return fmt.Errorf("the stream has %d copies", len(st.Stream.Replicas))
	}
	for _, r := range st.Stream.Replicas {
		if !r.Up || !r.Current {
			return fmt.Errorf("copy at %s: up %t, current %t, lag %d", r.Node, r.Up, r.Current, r.Lag)
		}
	}
	return nil
}

// tail is the end of the node's log.
func (n *node) tail() string {
	data, err := os.ReadFile(n.logFile())
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "\n  " + strings.Join(lines[max(0, len(lines)-10):], "\n  ")
}

// close kills all nodes and ends the proxies.
func (w *world) close() {
	for _, n := range w.nodes() {
		if n.running() {
			_ = n.kill() // it has ended by itself
		}
		if n.disk != nil {
			_ = n.disk.unmount() // it is gone already
		}
	}
	for _, l := range w.links {
		l.line.close()
	}
	w.spawn.close()
}

// ports hands out free ports of loopback, below those that the system gives to
// outgoing connections: a node that is down must find its own free again.
type ports struct {
	at  int
	err error
}

const (
	firstPort = 10_240
	lastPort  = 32_000
)

func newPorts() *ports { return &ports{at: firstPort + rand.IntN(lastPort-firstPort)} }

func (p *ports) next() string {
	for range lastPort - firstPort {
		if p.at++; p.at >= lastPort {
			p.at = firstPort
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.at))
		if free(addr) {
			return addr
		}
	}
	p.err = errors.New("no free port on loopback")
	return ""
}

// free tells whether nobody listens at addr by TCP or UDP.
func free(addr string) bool {
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return false
	}
	_ = ln.Close()
	pc, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return false
	}
	return pc.Close() == nil
}
