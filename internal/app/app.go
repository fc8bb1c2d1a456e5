package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/mesh"
	"weft.dev/weft/trace"
)

// Deps is what a node is given beside its configuration.
type Deps struct {
	Log     *slog.Logger
	Version string
}

// Node is one weft process: a mesh node with the roles on top of it.
type Node struct {
	cfg      Config
	version  string
	log      *slog.Logger
	registry *prometheus.Registry
	scope    obs.Scope
	store    *trace.Store
	spans    otlptrace.Client // where finished spans go: the store, and the export if there is one
	export   *trace.Queue     // nil without an export
	provider *sdktrace.TracerProvider
	mesh     *mesh.Node
	query    *trace.Query
	ready    chan struct{}

	mu        sync.Mutex
	listeners map[string]net.Listener // by name; guarded by mu
}

// New checks the configuration and builds the node. It opens nothing.
func New(cfg Config, d Deps) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure node: %w", err)
	}
	n := &Node{
		cfg: cfg, version: d.Version, log: d.Log, registry: prometheus.NewRegistry(),
		ready: make(chan struct{}), listeners: make(map[string]net.Listener),
	}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := n.tracing(); err != nil {
		return nil, err
	}
	n.scope = obs.Scope{Log: d.Log, Metrics: n.registry, Tracer: n.provider.Tracer("weft.dev/weft")}
	var err error
	n.mesh, err = mesh.New(cfg.Mesh, mesh.Deps{
		Scope: n.scope, Site: cfg.Site, Node: cfg.Node, Dir: cfg.Data, Version: d.Version, Traces: cfg.Telemetry.Traces.Sample > 0,
	})
	if err != nil {
		return nil, err
	}
	n.query = trace.NewQuery(n.store, n.mesh, d.Log)
	return n, nil
}

// tracing builds the way of spans: provider, store and export.
func (n *Node) tracing() error {
	t := n.cfg.Telemetry
	n.store = trace.NewStore(trace.StoreConfig{
		MaxBytes: int64(t.Traces.Store.MaxBytes), MaxAge: t.Traces.Store.MaxAge.Std(),
	}, n.registry)
	n.spans = n.store
	if t.OTLP.Endpoint != "" {
		headers := make(map[string]string, len(t.OTLP.Headers))
		for k, v := range t.OTLP.Headers {
			headers[k] = v.Reveal()
		}
		otlp, err := trace.NewOTLP(trace.OTLPConfig{Endpoint: t.OTLP.Endpoint, Headers: headers})
		if err != nil {
			return err
		}
		n.export = trace.NewQueue(otlp, n.log, n.registry)
		n.spans = trace.Tee(n.store, n.export)
	}
	var err error
	n.provider, err = trace.NewProvider(trace.ProviderConfig{
		Service: "weft", Site: n.cfg.Site, Node: n.cfg.Node, Client: n.spans,
		Sample: t.Traces.Sample, MaxPerSecond: t.Traces.MaxPerSecond,
	}, n.log, n.registry)
	return err
}

// Run serves until ctx ends, then stops the roles from the top and the mesh last.
func (n *Node) Run(ctx context.Context) error {
	if err := n.listen(ctx); err != nil {
		return err
	}
	defer n.closeListeners()
	var services []run.Service
	if n.export != nil {
		services = append(services, run.Named("trace export", n.export))
	}
	services = append(
		services,
		run.Named("tracing", run.Func(n.flushSpans)),
		run.Named("mesh", n.mesh),
		run.Named("roles", run.Func(n.roles)),
	)
	return run.Stack(ctx, services...)
}

// flushSpans hands the last spans on when the roles are gone.
func (n *Node) flushSpans(ctx context.Context) error {
	<-ctx.Done()
	if err := n.provider.Shutdown(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("flush spans: %w", err)
	}
	return nil
}

// Listener names.
const (
	listenGateway = "gateway"
	listenAdmin   = "admin"
	listenOTLP    = "telemetry.otlp"
)

// listen opens the HTTP listeners, so that a taken port is told before anything
// starts.
func (n *Node) listen(ctx context.Context) error {
	addrs := map[string]string{listenGateway: n.cfg.Gateway.Listen, listenAdmin: n.cfg.Admin.Listen}
	if a := n.cfg.Telemetry.OTLP.Listen; a != "" {
		addrs[listenOTLP] = a
	}
	var lc net.ListenConfig
	var errs []error
	for name, addr := range addrs {
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("open %s.listen: %w", name, err))
			continue
		}
		n.mu.Lock()
		n.listeners[name] = l
		n.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		n.closeListeners()
		return err
	}
	return nil
}

// closeListeners closes what no server has closed yet.
func (n *Node) closeListeners() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.listeners {
		_ = l.Close() // most are closed by their server already
	}
}

// Ready is closed when every role of the node serves.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Addr is the address of a listener ("gateway", "admin", "telemetry.otlp") once
// Run opened it, else empty.
func (n *Node) Addr(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.listeners[name]; l != nil {
		return l.Addr().String()
	}
	return ""
}

// ClientURL is where NATS clients and sidecars connect, once the node is ready.
func (n *Node) ClientURL() string { return n.mesh.ClientURL() }

// Bus is the node's connection to its site's events.
func (n *Node) Bus() *bus.Bus { return n.mesh.Bus() }

// Journey collects what all sites know of a trace, correlation or event id.
func (n *Node) Journey(ctx context.Context, id string) (*trace.Journey, []string) {
	return n.query.Journey(ctx, id)
}

// url is the http address of a listener.
func (n *Node) url(name string) string { return "http://" + n.Addr(name) }
