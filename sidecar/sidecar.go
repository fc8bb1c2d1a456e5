// Package sidecar stands beside one app: the app publishes to it over HTTP and
// is sent what it subscribes to, with rate limits, retries, a circuit breaker
// that pauses instead of burning deliveries, correlation and traces. It is no
// broker and keeps nothing on disk. No compatibility promise.
package sidecar

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/sidecar/policy"
)

// Deps is what a sidecar stands on. Its tracer is its own: the app's name is
// the service name of its spans, and they travel over the mesh.
type Deps struct {
	Log     *slog.Logger
	Metrics *prometheus.Registry // of this sidecar alone
	API     net.Listener         // for the app
	Admin   net.Listener         // metrics and health
}

// Proxy is a sidecar.
type Proxy struct {
	cfg      Config
	log      *slog.Logger
	instance string
	started  time.Time
	up       *upstream
	spans    *spans
	lanes    []*lane
	api      *httpd.Server
	admin    *httpd.Server
	draining atomic.Bool
}

// New builds a sidecar; the configuration must be valid. It does no I/O.
func New(cfg Config, d Deps) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure sidecar: %w", err)
	}
	p := &Proxy{cfg: cfg, log: d.Log, instance: instanceName(), started: time.Now()}
	p.up = &upstream{cfg: cfg.Upstream, name: "weft-sidecar " + cfg.App.ID, first: make(chan struct{})}
	m := newMetrics(d.Metrics, func() bool { return p.up.reason() == "" })
	p.spans = newSpans(cfg, p.instance, p.up, m)
	scope := obs.Scope{Log: d.Log, Metrics: d.Metrics, Tracer: p.spans.provider.Tracer("weft.dev/weft/sidecar")}
	p.up.Scope = scope
	causes := newCauses(p.longestCall() + causeAge)
	for _, s := range cfg.Subscriptions {
		p.lanes = append(p.lanes, p.newLane(s.withDefaults(), causes, m))
	}
	intake := httpd.PublishHandler(httpd.PublishConfig{
		Scope:     scope,
		Publisher: p.up,
		Source:    "/app/" + cfg.App.ID,
		Admit:     newLimits(cfg.Publish, p.started, m).admit,
		Cause:     causes.find,
	})
	p.api = httpd.New("api", d.API, apiRoutes(m.counted(intake)), d.Log)
	p.admin = httpd.New("metrics", d.Admin, p.adminRoutes(d.Metrics), d.Log)
	return p, nil
}

// Run works until ctx ends. Then it stops pulling, finishes the calls under way
// and closes the publish endpoint last, so that the app can publish while it
// drains.
func (p *Proxy) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { p.draining.Store(true) })
	defer stop()
	services := []run.Service{
		run.Named("upstream", run.Func(p.up.run)),
		run.Named("spans", run.Func(p.spans.run)),
		run.Named("metrics", p.admin),
		run.Named("presence", run.Func(p.announce)),
		run.Named("api", p.api),
		run.Named("subscriptions", run.Func(p.push)),
	}
	return run.Stack(ctx, services...)
}

// Ready is closed when the app can reach the sidecar, which does not wait for
// the mesh.
func (p *Proxy) Ready() <-chan struct{} { return p.api.Ready() }

// push runs all subscriptions side by side: they drain together.
func (p *Proxy) push(ctx context.Context) error {
	var lanes sync.WaitGroup
	for _, l := range p.lanes {
		lanes.Go(func() { // ends with ctx
			l.run(ctx)
			l.worker.caller.client.CloseIdleConnections()
		})
	}
	<-ctx.Done()
	lanes.Wait()
	return nil
}

func (p *Proxy) newLane(s Subscription, c *causes, m *metrics) *lane {
	breaker, retry := s.policies()
	lm := m.lane(s.Name)
	l := &lane{
		name: s.Name, durable: p.cfg.App.durable(s.Name), log: p.log,
		retry: retry, bury: s.DeadLetter.Action == deadLetterStore, hasHealth: p.cfg.App.HealthPath != "",
		size: s.Deliver.Concurrency, capacity: max(min(perCall*s.Deliver.Concurrency, maxHeld), s.Deliver.Concurrency),
		drainAfter: p.cfg.Drain.Timeout.Std(), metrics: lm,
		jobs: make(chan job, s.Deliver.Concurrency), results: make(chan result),
		arrivals: make(chan *bus.Delivery), demand: make(chan pull, 1), pulled: make(chan error),
	}
	l.source = &feed{up: p.up, cfg: bus.ConsumeConfig{
		Durable: l.durable, Patterns: s.Subjects, AckWait: ackWait, MaxAckPending: podsPerConsumer * l.capacity, From: s.From,
	}}
	l.breaker = policy.NewBreaker(breaker, mathrand.Float64, l.moved)
	l.worker = &worker{
		caller: caller{
			client: newClient(s.Deliver.Concurrency), url: p.cfg.App.url(s.Deliver.Path), health: p.cfg.App.url(p.cfg.App.HealthPath),
			name: s.Name, tracer: p.up.Tracer,
		},
		grave:   graveyard{owner: p.cfg.App.ID + "." + s.Name, up: p.up},
		causes:  c,
		timeout: s.Timeout.Std(),
	}
	return l
}

// longestCall is the longest time-out of the subscriptions.
func (p *Proxy) longestCall() time.Duration {
	var longest time.Duration
	for _, s := range p.cfg.Subscriptions {
		longest = max(longest, s.withDefaults().Timeout.Std())
	}
	return longest
}

// podsPerConsumer is how many pods may fill their hands at a time before the
// node waits for acknowledgements.
const podsPerConsumer = 16

// durable is the name of a subscription's consumer. A plus stands in no app or
// subscription name, so two of them never share a consumer.
func (a App) durable(subscription string) string { return "app+" + a.ID + "+" + subscription }

// instanceName tells the pods of an app apart: it is one token of a subject.
func instanceName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "host"
	}
	host = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, host)
	return host + "-" + strings.ToLower(rand.Text()[:6])
}

func jitter(limit time.Duration) time.Duration { return mathrand.N(limit) }

func apiRoutes(publish http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/events/{subject}", publish)
	mux.HandleFunc("GET /healthz", healthy)
	return mux
}
