package sidecar

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/obs"
)

const probeTimeout = 2 * time.Second

// worker does the jobs of a lane. It has no state of its own, so that any
// number of goroutines may share it.
type worker struct {
	caller  caller
	grave   graveyard
	causes  *causes
	timeout time.Duration
}

func (w *worker) do(ctx context.Context, j job) result {
	r := result{job: j}
	switch {
	case j.it == nil:
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		r.err = w.caller.probe(ctx)
	case j.it.dead != "":
		r.err = w.grave.bury(ctx, j.it)
	default:
		r.out = w.call(ctx, j.it)
	}
	return r
}

// call makes one call to the app and remembers what it carried.
func (w *worker) call(ctx context.Context, it *item) outcome {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	sc := it.journey.span.SpanContext()
	cause := event.CauseOf(it.d.Event)
	if cause.CorrelationID == "" && sc.IsValid() {
		cause.CorrelationID = sc.TraceID().String()
	}
	if sc.IsValid() {
		w.causes.begin(sc, cause)
		defer w.causes.end(sc)
	}
	ctx = trace.ContextWithSpan(ctx, it.journey.span)
	return w.caller.post(obs.WithCorrelation(ctx, cause.CorrelationID), it.d.Stored, it.attempts+1)
}

// journey is the process span of an event: it begins with the first call and
// ends when the event is settled or given back.
type journey struct{ span trace.Span }

func (j *journey) begin(l *lane, it *item) {
	if j.span != nil {
		return
	}
	attrs := append(obs.Messaging("nats", "process", obs.OpProcess, "EVENTS"),
		obs.KeyConsumerGroup.String(l.durable), obs.KeySeq.Int64(int64(it.d.Seq)))
	attrs = append(attrs, obs.EventAttrs(it.d.Event, it.d.Path)...)
	ctx, opts := obs.Consumer(context.Background(), it.d.Event, attrs...)
	_, j.span = l.worker.caller.tracer.Start(ctx, "process "+it.d.Path, opts...)
}

func (j *journey) end(it *item) {
	if j.span == nil {
		return
	}
	j.span.SetAttributes(attribute.Int("weft.attempts", it.attempts))
	if it.last.verdict != accepted {
		j.span.SetStatus(codes.Error, it.last.reason)
		j.span.SetAttributes(obs.KeyErrorType.String(it.last.kind()))
	}
	if it.dead != "" {
		j.span.SetAttributes(attribute.String("weft.dead_letter", it.dead))
	}
	j.span.End()
	j.span = nil
}
