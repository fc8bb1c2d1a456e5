// Package gateway is Weft's face to browsers and partners: it takes events over
// HTTP and pushes them over WebSocket (weft.json.v1) and server-sent events,
// resumable from any position the stream still holds. It reads the site's
// stream once, however many sockets there are. It stores nothing and runs no
// broker; webhooks are package webhook. No compatibility promise.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/internal/obs"
)

// streamName is the stream that cursors and positions belong to; in frames it
// has the index streamIndex.
const (
	streamName  = "EVENTS"
	streamIndex = "1"
)

const (
	helloTimeout = 5 * time.Second        // a WebSocket's first frame
	seekTimeout  = 10 * time.Second       // finding where a subscription begins
	pageWorkers  = 64                     // subscriptions that read history at once
	retryPage    = 250 * time.Millisecond // before history is read again after an error
	sweepEvery   = time.Second
)

// Config is the section "gateway".
type Config struct {
	Listen           string        `yaml:"listen" doc:"Address of the public API: publish, SSE, WebSocket, webhooks"`
	Origins          []string      `yaml:"origins" doc:"Web origins beside the gateway's own that may call it, such as https://shop.example; * allows all"`
	MaxConnections   int           `yaml:"maxConnections" doc:"WebSocket and SSE connections at once; further ones get 503"`
	MaxSubscriptions int           `yaml:"maxSubscriptions" doc:"Subscriptions of one WebSocket"`
	MaxFrame         conf.Size     `yaml:"maxFrame" doc:"Longest WebSocket frame taken from a client"`
	Heartbeat        conf.Duration `yaml:"heartbeat" doc:"Interval of WebSocket pings; without an answer for 2.4 intervals the socket is closed"`
	WriteTimeout     conf.Duration `yaml:"writeTimeout" doc:"A connection that takes nothing for this long is closed"`
	Tail             Tail          `yaml:"tail"`
}

// Tail bounds the newest events kept in memory for all connections; what is
// older is read from the stream.
type Tail struct {
	Events int       `yaml:"events" doc:"Newest events kept in memory for connections"`
	Bytes  conf.Size `yaml:"bytes" doc:"Memory for them"`
}

// DefaultConfig listens on loopback.
func DefaultConfig() Config {
	return Config{
		Listen:           "127.0.0.1:8280",
		MaxConnections:   10_000,
		MaxSubscriptions: 128,
		MaxFrame:         64 << 10,
		Heartbeat:        conf.Duration(25 * time.Second),
		WriteTimeout:     conf.Duration(30 * time.Second),
		Tail:             Tail{Events: 4096, Bytes: 8 << 20},
	}
}

// Validate names every key that cannot work.
func (c Config) Validate() error {
	errs := []error{
		conf.HostPort("listen", c.Listen),
		conf.AtLeast("maxConnections", c.MaxConnections, 1),
		conf.Between("maxSubscriptions", c.MaxSubscriptions, 1, 1024),
		conf.Between("maxFrame", c.MaxFrame, 1<<10, 1<<20),
		conf.Between("heartbeat", c.Heartbeat, conf.Duration(time.Second), conf.Duration(5*time.Minute)),
		conf.AtLeast("writeTimeout", c.WriteTimeout, conf.Duration(time.Second)),
		conf.AtLeast("tail.events", c.Tail.Events, 16),
		conf.AtLeast("tail.bytes", c.Tail.Bytes, 64<<10),
	}
	for i, o := range c.Origins {
		if u, err := url.Parse(o); o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "") {
			errs = append(errs, conf.Field(conf.Item("origins", i), "want an origin such as https://shop.example"))
		}
	}
	return errors.Join(errs...)
}

// Log is the site's stream as the gateway reads it; *bus.Bus is one. Page
// returns every event of the pattern in (After, UpTo] or an error.
type Log interface {
	Read(ctx context.Context, cfg bus.ReadConfig, h func(event.Stored) error) error
	Page(ctx context.Context, cfg bus.PageConfig) (events []event.Stored, next uint64, err error)
	Info(ctx context.Context) (bus.StreamInfo, error)
}

// Deps is what a Server works with.
type Deps struct {
	obs.Scope
	Log       Log
	Publisher httpd.Publisher
	Site      string
	Node      string
	Listener  net.Listener            // nil: only Handler is used
	Mount     map[string]http.Handler // further routes by ServeMux pattern, such as webhooks
}

// Server is the gateway of one node.
type Server struct {
	cfg  Config
	deps Deps
	obs.Scope
	metrics  *metrics
	origins  origins
	intake   *httpd.Intake
	tail     *tail
	handler  http.Handler
	upgrader websocket.Upgrader
	ready    chan struct{}
	stop     chan struct{} // closed when Run drains: connections end

	mu       sync.Mutex
	stopped  bool                  // guarded by mu: no new connections
	open     int                   // guarded by mu: WebSocket and SSE connections
	sessions map[*session]struct{} // guarded by mu
	serial   uint64                // guarded by mu: sessions ever opened
	conns    sync.WaitGroup        // connections, while not stopped
}

// New builds a gateway. It opens nothing and starts nothing.
func New(cfg Config, d Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	m := newMetrics(d.Metrics)
	s := &Server{
		cfg: cfg, deps: d, Scope: d.Scope, metrics: m,
		origins: newOrigins(cfg.Origins),
		intake: httpd.PublishHandler(httpd.PublishConfig{
			Scope: d.Scope, Publisher: d.Publisher, Source: "/weft/" + d.Site,
		}),
		tail:     newTail(d.Log, d.Scope, m, cfg.Tail),
		ready:    make(chan struct{}),
		stop:     make(chan struct{}),
		sessions: make(map[*session]struct{}),
	}
	s.upgrader = newUpgrader()
	s.handler = s.routes()
	return s, nil
}

// Handler is the whole public API, for mounting on a further listener. It works
// while Run runs.
func (s *Server) Handler() http.Handler { return s.handler }

// Ready is closed when the gateway serves.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends; then it tells every connection to come back
// elsewhere and lets requests finish.
func (s *Server) Run(ctx context.Context) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.tail.run(own) }) // nil: it retries until own ends
	wg.Go(func() { s.tick(own) })
	serve := make(chan error, 1)
	if l := s.deps.Listener; l != nil {
		s.warnOpen(ctx, l.Addr())
		web := httpd.New("gateway", l, s.handler, s.Log)
		go func() { serve <- web.Run(ctx) }() // drains with ctx; awaited below
	} else {
		go func() { <-ctx.Done(); serve <- nil }()
	}
	close(s.ready)
	var err error
	served := false
	select {
	case err = <-serve:
		served = true
	case <-ctx.Done():
	}
	s.drain()
	if !served {
		err = <-serve
	}
	cancel()
	wg.Wait()
	return err
}

// warnOpen says that anyone who reaches the gateway may publish and read.
func (s *Server) warnOpen(ctx context.Context, addr net.Addr) {
	if tcp, ok := addr.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		s.Log.WarnContext(ctx, "gateway is open to everyone who reaches it: keep it on loopback or behind a proxy that authenticates", "addr", addr.String())
	}
}

// drain ends all connections and waits for them.
func (s *Server) drain() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	close(s.stop)
	s.mu.Lock()
	sessions := slices.Collect(maps.Keys(s.sessions))
	s.mu.Unlock()
	for _, ws := range sessions {
		end := drainClosing()
		ws.end(end.code, end.reason)
	}
	s.conns.Wait()
}

// tick sends heartbeats, each socket in its own slot of the interval, and ends
// delivery spans that nobody will end any more.
func (s *Server) tick(ctx context.Context) {
	every := time.NewTicker(sweepEvery)
	defer every.Stop()
	slots := max(uint64(s.cfg.Heartbeat.Std()/sweepEvery), 1)
	for n := uint64(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case now := <-every.C:
			s.tail.spans.sweep(now)
			for _, ws := range s.slot(n%slots, slots) {
				ws.beat()
			}
		}
	}
}

func (s *Server) slot(n, slots uint64) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []*session
	for ws := range s.sessions {
		if ws.serial%slots == n {
			due = append(due, ws)
		}
	}
	return due
}

// enter admits one connection; the caller calls leave once if it returns nil.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped:
		return httpd.Problem{
			Type: "draining", Title: "This node is stopping", Status: http.StatusServiceUnavailable,
			Detail: "connect again: another node takes over", RetryAfter: time.Second,
		}
	case s.open >= s.cfg.MaxConnections:
		s.metrics.refused.Inc()
		return httpd.Problem{
			Type: "too-many-connections", Title: "The node has all the connections it may have", Status: http.StatusServiceUnavailable,
			Detail: "connect again later or to another node", Limit: s.cfg.MaxConnections, RetryAfter: 5 * time.Second,
		}
	}
	s.open++
	s.conns.Add(1)
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
	s.conns.Done()
}
