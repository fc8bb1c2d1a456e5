package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/internal/obs"
)

// deliverTimeout ends the span of an event that some socket has not taken yet:
// it is slow, parked or gone.
const deliverTimeout = 5 * time.Second

// delivery is the `deliver <subject>` span of one event on this node: from its
// arrival to the moment the last socket that was live has it.
type delivery struct {
	owner       *deliveries
	span        trace.Span
	traceparent string
	deadline    time.Time
	waiting     atomic.Int32 // sockets that were live when the event came
	sent        atomic.Int32 // sockets that have it
	once        sync.Once
}

// deliveries holds the spans that are open.
type deliveries struct {
	tracer trace.Tracer
	mu     sync.Mutex
	active map[*delivery]struct{} // guarded by mu
}

func newDeliveries(t trace.Tracer) *deliveries {
	return &deliveries{tracer: t, active: make(map[*delivery]struct{})}
}

// open starts the span of an event for n sockets; nil if it is not recorded.
func (ds *deliveries) open(e *entry, n int) *delivery {
	attrs := append(obs.Messaging("nats", "deliver", obs.OpProcess, streamName), obs.EventAttrs(e.Event, e.Path)...)
	ctx, opts := obs.Consumer(context.Background(), e.Event, attrs...)
	_, span := ds.tracer.Start(ctx, "deliver "+e.Path, opts...)
	if !span.IsRecording() {
		return nil
	}
	sc := span.SpanContext()
	d := &delivery{
		owner: ds, span: span, deadline: time.Now().Add(deliverTimeout),
		traceparent: "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String(),
	}
	d.waiting.Store(int32(n))
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.active[d] = struct{}{}
	return d
}

// done counts one socket that has the event.
func (d *delivery) done() {
	d.sent.Add(1)
	if d.waiting.Add(-1) == 0 {
		d.end()
	}
}

func (d *delivery) end() {
	d.once.Do(func() {
		d.span.SetAttributes(obs.KeyRecipients.Int(int(d.sent.Load())))
		d.span.End()
		d.owner.mu.Lock()
		defer d.owner.mu.Unlock()
		delete(d.owner.active, d)
	})
}

// sweep ends the spans whose time is over.
func (ds *deliveries) sweep(now time.Time) {
	var late []*delivery
	ds.mu.Lock()
	for d := range ds.active {
		if now.After(d.deadline) {
			late = append(late, d)
		}
	}
	ds.mu.Unlock()
	for _, d := range late {
		d.end()
	}
}
