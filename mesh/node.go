package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/internal/wire"
	"weft.dev/weft/mesh/transfer"
)

// openEvery is how often a node says that its store is still being opened. That
// takes as long as it takes: after a kill the server reads all of a large store,
// and a node that gave up would begin anew for ever.
const openEvery = 10 * time.Second

// Deps is what a node is given.
type Deps struct {
	obs.Scope
	Site    string // name of the site; also its JetStream domain
	Node    string // name of the node, stable and unique in the site
	Dir     string // the node's data directory
	Version string
	Traces  bool             // spans are recorded: links report the events they bring
	Now     func() time.Time // the clock that other nodes and sites see; nil: the machine's
}

// Node is one node of a site.
type Node struct {
	Deps
	cfg       Config
	bus       *bus.Bus
	ready     chan struct{}
	links     *links
	reloads   sync.Mutex // held while the server's settings are written and reloaded
	directory *directory // of sites; nil: the configuration has none
	keys      keys
	metrics   *metrics
	history   history          // of the links
	growth    growing          // of the site, from one node to several
	origins   transfer.Origins // whose events several links bring
	disk      *disk

	refusals refusals // of links; has its own lock

	mu   sync.Mutex
	srv  *server.Server // guarded by mu; nil until it runs
	site *site          // guarded by mu; nil until joined, and at a site of one node
}

// New checks the configuration and builds a node.
func New(cfg Config, d Deps) (*Node, error) {
	if err := errors.Join(cfg.ValidateAt(d.Site), conf.Name("site", d.Site), conf.Name("node", d.Node), conf.Required("data", d.Dir)); err != nil {
		return nil, fmt.Errorf("mesh configuration: %w", err)
	}
	var opts []bus.Option
	if !cfg.Events.GroupCommit {
		opts = append(opts, bus.PerMessage())
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	n := &Node{Deps: d, cfg: cfg, bus: bus.Reserve(d.Site, d.Scope, opts...), keys: newKeys(), links: newLinks(), ready: make(chan struct{})}
	n.metrics, n.disk = newMetrics(n), newDisk(n)
	for _, l := range cfg.Links.Sites {
		n.links.set(append(n.links.all(), newLink(n, l)))
	}
	if cfg.Links.Directory.On() {
		n.directory = newDirectory(n)
	}
	n.metrics.register()
	return n, nil
}

// Bus is the node's connection to its own stream. It may be handed on before
// Run, but is usable only once the node is ready.
func (n *Node) Bus() *bus.Bus { return n.bus }

// Ready is closed when the node takes events.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Run serves until ctx ends, then commits what was accepted and closes the store.
func (n *Node) Run(ctx context.Context) (err error) {
	found, unlock, err := claim(n.Dir, marker{Site: n.Site, Node: n.Node, Cluster: n.cfg.Clustered()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := n.openGrowth(ctx, found); err != nil {
		return err
	}
	area := newStaging(n.Dir, n.Site)
	defer area.remove()
	n.disk.area = area
	if err := n.disk.await(ctx); err != nil {
		return err
	}
	leave := func() {}
	if n.cfg.Clustered() {
		others, err := n.join(ctx)
		if err != nil {
			return err
		}
		leave = sync.OnceFunc(func() { others.leave(ctx) })
		defer leave()
	}
	s, err := n.start(ctx)
	if err == nil && n.cfg.Clustered() {
		s, err = n.elect(ctx, s)
	}
	if err != nil {
		return err
	}
	defer func() {
		leave() // before the server goes, so that nobody takes it for dead
		s.stop()
	}()
	n.mu.Lock()
	n.srv = s.Server
	n.mu.Unlock()
	if err := n.finishGrowth(ctx, s); err != nil {
		return err
	}
	if err := n.bus.Attach(s.conn, bus.Near(s.near)); err != nil {
		return err
	}
	if err := n.ensureEvents(ctx); err != nil {
		return err
	}
	if n.cfg.Events.Staging == stagingMemory && n.cfg.Replicas() == 1 { // replicated batches are staged in memory anyway
		if err := area.make(); err != nil {
			n.Log.WarnContext(ctx, "commits are staged on disk: no room in a memory file system", "err", err)
		}
	}
	if err := n.setFormed(); err != nil {
		return err
	}
	close(n.ready)
	n.Log.InfoContext(ctx, "mesh node ready", "site", n.Site, "node", n.Node, "client_url", n.ClientURL())
	return run.Stack(ctx, n.services(s)...)
}

// services are what runs on the server, bottom first.
func (n *Node) services(s *embedded) []run.Service {
	services := []run.Service{
		run.Named("server", run.Func(s.watch)),
		run.Named("bus", n.bus),
		run.Named("disk", run.Func(n.disk.watch)),
		run.Named("mesh status", run.Func(n.reportStatus)),
	}
	if n.site != nil {
		services = append(services, run.Named("cluster", run.Func(n.site.follow)))
	}
	if n.cfg.TLS.On() {
		services = append(services, run.Named("certificates", newCertificates(n)))
	}
	if len(n.cfg.Links.Sites) > 0 || n.directory != nil {
		services = append(services, run.Named("links", run.Func(n.links.run)))
		if n.directory != nil {
			services = append(services, run.Named("directory", n.directory))
		}
		if n.Traces {
			services = append(services, run.Named("link spans", run.Func(n.traceLinks)))
		}
	}
	return services
}

// server is the running server, or nil.
func (n *Node) server() *server.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.srv
}

var errNotReady = errors.New("the mesh node is not ready")

// leads tells whether this node is the one of its site that holds the stream's
// lead: what must be done once in a site is done there.
func (n *Node) leads() bool {
	s := n.server()
	if s == nil {
		return false
	}
	a, err := s.LookupAccount(account)
	return err == nil && a.JetStreamIsStreamLeader(eventsStream)
}

// dropLeaf closes the connections to a linked site and returns their number.
func (n *Node) dropLeaf(site string) (closed int) {
	s := n.server()
	if s == nil {
		return 0
	}
	leafs, err := s.Leafz(nil)
	if err != nil {
		return 0
	}
	for _, l := range leafs.Leafs {
		if of, _, _ := strings.Cut(l.Name, ":"); of == site && s.DisconnectClientByID(l.ID) == nil {
			closed++
		}
	}
	return closed
}

// linkAddr is where other sites dial this node.
func (n *Node) linkAddr(s *server.Server) string {
	host, _, err := net.SplitHostPort(n.cfg.Links.Listen)
	if err != nil {
		return ""
	}
	v, err := s.Varz(nil)
	if err != nil {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(v.LeafNode.Port))
}

// LinkURL is where other sites dial this node; empty without listener.
func (n *Node) LinkURL() string {
	if s := n.server(); s != nil && n.cfg.Links.Listen != "" {
		return n.linkScheme() + n.linkAddr(s)
	}
	return ""
}

// ClientURL is where NATS clients and sidecars connect; empty without listener.
func (n *Node) ClientURL() string {
	if s := n.server(); s != nil && n.cfg.Client.Listen != "" {
		return "nats://" + s.Addr().String()
	}
	return ""
}

// embedded is a running server and the node's connection to it.
type embedded struct {
	*server.Server
	conn  *nats.Conn
	fatal chan error // what the server would have ended the process for
	log   *slog.Logger

	password string // of nodeUser
}

// start runs the embedded server and waits until it serves.
func (n *Node) start(ctx context.Context) (*embedded, error) {
	if err := errors.Join(n.probePorts(ctx), n.prepareLinks(ctx)); err != nil {
		return nil, err
	}
	opts, err := n.options()
	if err != nil {
		return nil, err
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("make nats server: %w", err)
	}
	s := &embedded{Server: srv, fatal: make(chan error, 8), log: n.Log, password: n.keys.node}
	srv.SetLoggerV2(&serverLog{log: n.Log.With("component", "nats"), fatal: s.fatal, explain: n.explain, heard: n.disk.heard}, false, false, false)
	go srv.Start() // returns when listening; ended by stop
	if err := s.waitReady(ctx); err != nil {
		s.stop()
		return nil, err
	}
	if err := n.connect(s); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// connect gives the node its connection to its server.
func (n *Node) connect(s *embedded) (err error) {
	s.conn, err = nats.Connect("", nats.InProcessServer(s.Server), nats.Name("weft "+n.Node),
		nats.UserInfo(nodeUser, n.keys.node), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { n.Log.Warn("mesh connection", "err", err) }))
	if err != nil {
		return fmt.Errorf("connect to own server: %w", err)
	}
	return nil
}

// near makes the connection for what links take over.
func (s *embedded) near() (*wire.Conn, error) {
	conn, err := s.InProcessConn()
	if err != nil {
		return nil, fmt.Errorf("connect to own server: %w", err)
	}
	return wire.Dial(conn, "weft links", nodeUser, s.password)
}

// options are the server's, from its settings and what text cannot say.
func (n *Node) options() (*server.Options, error) {
	opts := new(server.Options)
	if err := opts.ProcessConfigString(n.settings(n.keys)); err != nil {
		return nil, fmt.Errorf("configure nats server: %w", err)
	}
	opts.NoSigs, opts.NoLog = true, true
	opts.DontListen = n.cfg.Client.Listen == "" && !n.cfg.Clustered()
	opts.LameDuckGracePeriod, opts.LameDuckDuration = 50*time.Millisecond, time.Second
	return opts, nil
}

// reload brings changed settings to the running server.
func (n *Node) reload() error {
	n.reloads.Lock() // else an older setting could be the last
	defer n.reloads.Unlock()
	opts, err := n.options()
	if err != nil {
		return err
	}
	s := n.server()
	if s == nil {
		return errNotReady
	}
	if err := s.ReloadOptions(opts); err != nil {
		return fmt.Errorf("reload nats server: %w", err)
	}
	return nil
}

func (s *embedded) waitReady(ctx context.Context) error {
	began, next := time.Now(), time.Now().Add(openEvery)
	for !s.ReadyForConnections(10*time.Millisecond) || !s.JetStreamEnabled() {
		select {
		case err := <-s.fatal:
			return fmt.Errorf("start nats server: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("start nats server: %w", ctx.Err())
		default:
		}
		if now := time.Now(); now.After(next) {
			next = now.Add(openEvery)
			s.log.WarnContext(ctx, "the store is being opened", "since", now.Sub(began).Round(time.Second))
		}
	}
	return nil
}

// watch ends the node when the server cannot go on.
func (s *embedded) watch(ctx context.Context) error {
	select {
	case err := <-s.fatal:
		return fmt.Errorf("nats server: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// stop closes the connection, tells clients to go elsewhere, and closes the store.
func (s *embedded) stop() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.LameDuckShutdown()
	s.Shutdown() // for a server without listener, which has no lame duck mode
	s.WaitForShutdown()
}
