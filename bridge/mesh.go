package bridge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
)

const (
	ackWait       = 30 * time.Second
	maxAckPending = 4096 // events of one bridge in work
	apiTimeout    = 5 * time.Second
)

// meshSource reads the site's stream by a durable consumer that the nodes of the
// site share. Its one lane is the stream. While an event is in work its delivery
// is renewed. A run begins after the last event before which all are settled, so
// what a crash left behind comes again first and in order.
type meshSource struct {
	cfg  MeshSource
	mesh Mesh
	driver.Deps

	mu   sync.Mutex // guards held
	held map[uint64]*bus.Delivery
	work sync.WaitGroup // events in the engine
}

func newMeshSource(cfg MeshSource, m Mesh, d driver.Deps) *meshSource {
	if cfg.Start == "" {
		cfg.Start = "all"
	}
	return &meshSource{cfg: cfg, mesh: m, Deps: d}
}

// Info describes the source.
func (s *meshSource) Info() driver.Info {
	return driver.Info{System: "nats", Text: "mesh " + strings.Join(s.cfg.Subjects, ", ")}
}

func (s *meshSource) durable() string { return "bridge_" + s.Bridge }

// Run implements driver.Source.
func (s *meshSource) Run(ctx context.Context, emit driver.Emit) error {
	s.mu.Lock()
	s.held = map[uint64]*bus.Delivery{}
	s.mu.Unlock()
	if err := s.rewind(ctx); err != nil {
		return err
	}
	settle, done := context.WithCancel(context.WithoutCancel(ctx))
	var keeper sync.WaitGroup
	keeper.Go(func() { s.renew(settle) })
	err := s.mesh.Consume(ctx, bus.ConsumeConfig{
		Durable: s.durable(), Patterns: s.cfg.Subjects, AckWait: ackWait, MaxAckPending: maxAckPending, From: s.cfg.Start,
	}, func(ctx context.Context, d *bus.Delivery) error { return s.take(ctx, d, emit) })
	s.work.Wait()
	done()
	keeper.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// rewind puts the consumer back to what is not settled. Where other nodes share
// it, what they hold may come twice.
func (s *meshSource) rewind(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	c, err := s.mesh.JetStream().Consumer(ctx, bus.Stream, s.durable())
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return nil // made by Consume
	case err != nil:
		return fmt.Errorf("look up consumer %s: %w", s.durable(), err)
	case c.CachedInfo().NumAckPending == 0:
		return nil
	}
	if _, err := s.mesh.JetStream().ResetConsumer(ctx, bus.Stream, s.durable()); err != nil {
		return fmt.Errorf("rewind consumer %s: %w", s.durable(), err)
	}
	return nil
}

// take hands one delivery to the engine. A copy of one that is still in work is
// left alone: the ack of the first settles both.
func (s *meshSource) take(ctx context.Context, d *bus.Delivery, emit driver.Emit) error {
	s.mu.Lock()
	_, working := s.held[d.Seq]
	if !working {
		s.held[d.Seq] = d
	}
	s.mu.Unlock()
	if working {
		return nil
	}
	s.work.Add(1)
	b := driver.Batch{
		Context: context.WithoutCancel(ctx), Lane: bus.Stream,
		Records: []*driver.Record{{
			Event: d.Event, Path: d.Path, Origin: d.Origin, Topic: bus.Stream,
			Position: strconv.FormatUint(d.Seq, 10), At: d.StoredAt,
		}},
		Done: func(err error) { s.settle(d, err) },
	}
	if err := emit(ctx, b); err != nil {
		s.settle(d, err)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return nil
}

// settle acks an event that is stored and gives any other one back at once. An
// ack that is lost costs a duplicate, nothing else.
func (s *meshSource) settle(d *bus.Delivery, failure error) {
	defer s.work.Done()
	s.mu.Lock()
	delete(s.held, d.Seq)
	s.mu.Unlock()
	var err error
	if failure == nil {
		err = d.Ack()
	} else {
		err = d.Nak(0)
	}
	if err != nil {
		s.Log.Warn("bridge event not settled", "seq", d.Seq, "err", err)
	}
}

// renew keeps the deliveries in work from coming again.
func (s *meshSource) renew(ctx context.Context) {
	tick := time.NewTicker(ackWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		held := make([]*bus.Delivery, 0, len(s.held))
		for _, d := range s.held {
			held = append(held, d)
		}
		s.mu.Unlock()
		for _, d := range held {
			if err := d.InProgress(); err != nil {
				s.Log.DebugContext(ctx, "delivery not renewed", "seq", d.Seq, "err", err)
			}
		}
	}
}

// Lag implements driver.Lagger.
func (s *meshSource) Lag(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	c, err := s.mesh.JetStream().Consumer(ctx, bus.Stream, s.durable())
	if err != nil {
		return 0, fmt.Errorf("look up consumer %s: %w", s.durable(), err)
	}
	return int64(c.CachedInfo().NumPending), nil
}

// Check implements driver.Source.
func (s *meshSource) Check(ctx context.Context) error { return checkMesh(ctx, s.mesh) }

func checkMesh(ctx context.Context, m Mesh) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := m.JetStream().Stream(ctx, bus.Stream); err != nil {
		return fmt.Errorf("look up stream %s: %w", bus.Stream, err)
	}
	return nil
}

// meshSink publishes at the site. The message id names the bridge, so that a
// round trip through another system keeps the event's id and is still no
// duplicate of its first publish.
type meshSink struct {
	cfg  MeshSink
	mesh Mesh
	driver.Deps
}

func newMeshSink(cfg MeshSink, m Mesh, d driver.Deps) *meshSink {
	return &meshSink{cfg: cfg, mesh: m, Deps: d}
}

// Info describes the sink.
func (s *meshSink) Info() driver.Info {
	return driver.Info{System: "nats", Text: "mesh " + s.cfg.Subject.String()}
}

// Open implements driver.Sink.
func (s *meshSink) Open(context.Context) error { return nil }

// Close implements driver.Sink.
func (s *meshSink) Close() {}

// Check implements driver.Sink.
func (s *meshSink) Check(ctx context.Context) error { return checkMesh(ctx, s.mesh) }

// Write implements driver.Sink.
func (s *meshSink) Write(ctx context.Context, recs []*driver.Record) []error {
	pubs := make([]bus.Publication, len(recs))
	for i, r := range recs {
		e := r.Event
		e.Fill(event.Defaults{Subject: r.Dest, Source: "/weft/" + s.Site, Now: r.At})
		pubs[i] = bus.Publication{Subject: r.Dest, Event: e, MsgID: "b/" + s.Bridge + "/" + e.Key()}
	}
	var errs []error
	for i, res := range s.mesh.PublishAll(ctx, pubs) {
		if res.Err == nil {
			continue
		}
		if errs == nil {
			errs = make([]error, len(recs))
		}
		errs[i] = res.Err
		switch {
		case errors.Is(res.Err, event.ErrTooLarge):
			errs[i] = driver.Permanent("too-large", res.Err)
		case errors.Is(res.Err, event.ErrRejected):
			errs[i] = driver.Permanent("rejected", res.Err)
		}
	}
	return errs
}
