// Package webhook delivers events to partners' HTTP endpoints: at least once,
// signed by Standard Webhooks, with retries over days, so that one slow or
// dead endpoint never delays another. It serves the /v1/webhooks API on every
// gateway node; one node of a site at a time delivers. It receives no webhooks
// and keeps no copy of any event. No compatibility promise.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook/egress"
	"weft.dev/weft/gateway/webhook/lane"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/obs"
)

// Config is the section gateway.webhooks.
type Config struct {
	AllowNetworks []netip.Prefix  `yaml:"allowNetworks" doc:"private or reserved networks that endpoints may have, such as 10.1.0.0/16; http is allowed to them"`
	AllowHTTP     bool            `yaml:"allowHTTP" doc:"allow plain http to public addresses too"`
	Timeout       conf.Duration   `yaml:"timeout" doc:"time for one attempt, unless the endpoint says otherwise"`
	Concurrency   int             `yaml:"concurrency" doc:"requests in flight per endpoint"`
	Queue         int             `yaml:"queue" doc:"events waiting in memory per endpoint; more are read from the stream later"`
	Retry         []conf.Duration `yaml:"retry" doc:"waits between the attempts of one event, each spread by +-20 %"`
	DisableAfter  conf.Duration   `yaml:"disableAfter" doc:"an endpoint that failed for so long is disabled"`
	MaxEndpoints  int             `yaml:"maxEndpoints" doc:"endpoints per site; creating more is refused"`
}

// DefaultConfig is used where the configuration is silent.
func DefaultConfig() Config {
	lim := lane.DefaultLimits()
	retry := make([]conf.Duration, len(lim.Schedule))
	for i, d := range lim.Schedule {
		retry[i] = conf.Duration(d)
	}
	return Config{
		Timeout: conf.Duration(15 * time.Second), Concurrency: lim.Concurrency, Queue: lim.Queue,
		Retry: retry, DisableAfter: conf.Duration(lim.GiveUp), MaxEndpoints: 100_000,
	}
}

// Validate reports every mistake in the section.
func (c Config) Validate() error {
	errs := []error{
		conf.Between("timeout", c.Timeout.Std(), 10*time.Millisecond, maxTimeout),
		conf.Between("concurrency", c.Concurrency, 1, 256),
		conf.Between("queue", c.Queue, 2, 10_000),
		conf.Between("maxEndpoints", c.MaxEndpoints, 1, 1_000_000),
		conf.AtLeast("disableAfter", c.DisableAfter.Std(), time.Second),
	}
	for i, d := range c.Retry {
		errs = append(errs, conf.Between(conf.Item("retry", i), d.Std(), time.Millisecond, 7*24*time.Hour))
	}
	for i, n := range c.AllowNetworks {
		if n != n.Masked() {
			errs = append(errs, conf.Field(conf.Item("allowNetworks", i), "want a network such as "+n.Masked().String()))
		}
	}
	return errors.Join(errs...)
}

func (c Config) limits() lane.Limits {
	lim := lane.DefaultLimits()
	lim.Queue, lim.Concurrency, lim.GiveUp = c.Queue, c.Concurrency, c.DisableAfter.Std()
	lim.Schedule = make(lane.Schedule, len(c.Retry))
	for i, d := range c.Retry {
		lim.Schedule[i] = d.Std()
	}
	return lim
}

// Source is where events come from; *bus.Bus is one.
type Source interface {
	// Consume calls h for each event in stream order until ctx ends. What h does
	// not settle is delivered again, also after a restart.
	Consume(ctx context.Context, cfg bus.ConsumeConfig, h func(context.Context, *bus.Delivery) error) error
	// Page reads stored events without a consumer.
	Page(ctx context.Context, cfg bus.PageConfig) ([]event.Stored, uint64, error)
	// Info describes the stream of events.
	Info(ctx context.Context) (bus.StreamInfo, error)
}

// Deps are what the service works with.
type Deps struct {
	obs.Scope
	Source   Source
	Conn     *nats.Conn // to the site's mesh node; for the service's own streams
	Site     string
	Node     string // unique in the site; names the delivering node
	Replicas int    // of the service's streams and buckets; 0 means 1
}

// Service is the webhook part of a gateway node.
type Service struct {
	cfg Config
	Deps
	metrics *metrics
	policy  egress.Policy
	client  *http.Client
	sender  *sender

	ready     chan struct{}
	readyOnce sync.Once
	stores    atomic.Pointer[stores] // set once the streams exist; nil answers 503
	engine    atomic.Pointer[engine] // set while this node delivers
}

// New checks the configuration and builds the service.
func New(cfg Config, d Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, conf.Under("gateway.webhooks", err)
	}
	if d.Source == nil || d.Conn == nil || d.Site == "" || d.Node == "" {
		return nil, errors.New("new webhook service: Source, Conn, Site and Node are required")
	}
	d.Replicas = max(1, d.Replicas)
	policy := egress.Policy{AllowNetworks: cfg.AllowNetworks, AllowHTTP: cfg.AllowHTTP}
	s := &Service{
		cfg: cfg, Deps: d, metrics: newMetrics(d.Metrics), policy: policy,
		client: egress.Client(policy, cfg.Concurrency), ready: make(chan struct{}),
	}
	s.sender = &sender{client: s.client, tracer: d.Tracer, site: d.Site, metrics: s.metrics}
	return s, nil
}

// Ready is closed when the API answers.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run serves endpoint changes and, on one node of the site, delivers until ctx
// ends. It waits for requests in flight for a short while, so that stopping
// costs few duplicates.
func (s *Service) Run(ctx context.Context) error {
	defer s.client.CloseIdleConnections()
	st, err := s.open(ctx)
	if err != nil {
		return nil //nolint:nilerr // open fails only when ctx ends
	}
	s.stores.Store(st)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { st.watch(ctx) })
	select {
	case <-st.synced:
	case <-ctx.Done():
		return nil
	}
	s.readyOnce.Do(func() { close(s.ready) })
	s.lead(ctx, st)
	return nil
}

// open makes the streams and buckets, again and again until the mesh lets it.
func (s *Service) open(ctx context.Context) (*stores, error) {
	js, err := jetstream.New(s.Conn)
	if err != nil {
		return nil, fmt.Errorf("open webhook stores: %w", err)
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		// While a site of several nodes has no leader a question gets no answer at
		// all, so the first attempts are short.
		own, cancel := context.WithTimeout(ctx, max(5*wait, time.Second))
		st, err := openStores(own, js, s.Deps)
		cancel()
		if err == nil {
			return st, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.Deps.Log.WarnContext(ctx, "webhook stores not ready", "err", err)
		if !pause(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

// pause waits and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
