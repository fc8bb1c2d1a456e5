// Package bridge carries events between a site's mesh and outside systems: mesh
// to Kafka or SNS, Kafka or SQS to mesh. The engine here owns batching, order,
// retry, dead letters, mapping, the loop guard, traces and metrics; drivers own
// a client library each. It is no stream processor: an event leaves as it came.
// No compatibility promise.
//
// Delivery is at least once: a source forgets an event only after the sink, or
// the dead-letter stream, has stored it.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/kafka"
	"weft.dev/weft/bridge/sns"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/dlq"
	"weft.dev/weft/internal/obs"
)

// Mesh is the site's event stream; *bus.Bus is one.
type Mesh interface {
	Consume(ctx context.Context, cfg bus.ConsumeConfig, h func(context.Context, *bus.Delivery) error) error
	PublishAll(ctx context.Context, ps []bus.Publication) []bus.Result
	JetStream() jetstream.JetStream
}

// DeadLetters keeps what cannot be delivered; *dlq.Store is one.
type DeadLetters interface {
	Put(ctx context.Context, l dlq.Letter) error
}

// Deps are what the bridges of a node share.
type Deps struct {
	obs.Scope
	Site        string
	Mesh        Mesh
	DeadLetters DeadLetters
}

// Service runs the bridges of a node.
type Service struct {
	relays []*relay
}

// New checks the configuration and builds its bridges.
func New(cfgs []Config, d Deps) (*Service, error) {
	if err := ValidateAll("bridges", cfgs); err != nil {
		return nil, err
	}
	m := newMetrics(d.Metrics)
	s := &Service{}
	for _, cfg := range cfgs {
		s.relays = append(s.relays, newRelay(cfg.withDefaults(), d, m, ends))
	}
	return s, nil
}

// Run runs every bridge until ctx ends, then lets each finish what it holds.
func (s *Service) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, r := range s.relays {
		all.Go(func() { r.run(ctx) })
	}
	all.Wait()
	<-ctx.Done() // also without a bridge
	return nil
}

// Status describes every bridge, in the order of the configuration.
func (s *Service) Status(ctx context.Context) []Status {
	out := make([]Status, len(s.relays))
	var all sync.WaitGroup
	for i, r := range s.relays {
		all.Go(func() { out[i] = r.status(ctx) }) // asks its source for the lag
	}
	all.Wait()
	return out
}

// ErrUnknown: no bridge has this name.
var ErrUnknown = errors.New("no such bridge")

// Pause stops a bridge after what it holds; Resume lets it go on. Neither
// outlives the process.
func (s *Service) Pause(name string) error { return s.with(name, func(r *relay) { r.pause(true) }) }

// Resume undoes Pause.
func (s *Service) Resume(name string) error { return s.with(name, func(r *relay) { r.pause(false) }) }

func (s *Service) with(name string, do func(*relay)) error {
	for _, r := range s.relays {
		if r.cfg.Name == name {
			do(r)
			return nil
		}
	}
	return fmt.Errorf("bridge %q: %w", name, ErrUnknown)
}

// Checked is what Check found at the two ends of a bridge.
type Checked struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
	// FromError and ToError are empty when that end can be reached and has what
	// the bridge reads from or writes to.
	FromError string `json:"fromError,omitempty"`
	ToError   string `json:"toError,omitempty"`
}

// Check connects to both ends of every bridge, at the same time, beside the
// running ones.
func (s *Service) Check(ctx context.Context) []Checked {
	out := make([]Checked, len(s.relays))
	var all sync.WaitGroup
	for i, r := range s.relays {
		all.Go(func() {
			e := r.ends(r.cfg, r.deps, func(string, error) {})
			out[i] = Checked{Name: r.cfg.Name, From: e.from.Text, To: e.to.Text}
			if err := e.source.Check(ctx); err != nil {
				out[i].FromError = err.Error()
			}
			if err := e.sink.Check(ctx); err != nil {
				out[i].ToError = err.Error()
			}
		})
	}
	all.Wait()
	return out
}

// twoEnds are the ends of a bridge, not connected.
type twoEnds struct {
	source    driver.Source
	sink      driver.Sink
	from, to  driver.Info
	dest, key driver.Template
}

// ends builds the drivers of a valid configuration. This is the list of drivers.
func ends(cfg Config, d Deps, report func(end string, err error)) twoEnds {
	deps := func(end string) driver.Deps {
		return driver.Deps{Scope: d.Scope, Bridge: cfg.Name, Site: d.Site, Report: func(err error) { report(end, err) }}
	}
	var e twoEnds
	switch {
	case cfg.From.Mesh != nil:
		src := newMeshSource(*cfg.From.Mesh, d.Mesh, deps("source"))
		e.source, e.from = src, src.Info()
	case cfg.From.Kafka != nil:
		src := kafka.NewSource(*cfg.From.Kafka, deps("source"))
		e.source, e.from = src, src.Info()
	case cfg.From.SQS != nil:
		src := sns.NewSource(*cfg.From.SQS, deps("source"))
		e.source, e.from = src, src.Info()
	}
	switch {
	case cfg.To.Mesh != nil:
		sink := newMeshSink(*cfg.To.Mesh, d.Mesh, deps("sink"))
		e.sink, e.to, e.dest = sink, sink.Info(), cfg.To.Mesh.Subject
	case cfg.To.Kafka != nil:
		sink := kafka.NewSink(*cfg.To.Kafka, deps("sink"))
		e.sink, e.to, e.dest, e.key = sink, sink.Info(), cfg.To.Kafka.Topic, cfg.To.Kafka.Key
	case cfg.To.SNS != nil:
		sink := sns.NewSink(*cfg.To.SNS, deps("sink"))
		e.sink, e.to, e.key = sink, sink.Info(), cfg.To.SNS.Group
	}
	return e
}
