package httpd

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
)

// Publisher stores events; *bus.Bus is one. After a call that returned without
// an error it no longer holds the data of what it was given.
type Publisher interface {
	Publish(ctx context.Context, p bus.Publication) (bus.Ack, error)
	PublishAll(ctx context.Context, ps []bus.Publication) []bus.Result
}

// PublishConfig is what a publish endpoint is made of. Only Scope, Publisher and
// Source are required.
type PublishConfig struct {
	obs.Scope
	Publisher Publisher
	// Source is the CloudEvents source of events that bring none: /weft/<site>,
	// or the app behind a sidecar.
	Source string
	// Admit decides before n events are published on subject: nil lets them pass,
	// a Problem (429 with RetryAfter) or FieldError is the answer otherwise.
	Admit func(ctx context.Context, subject string, n int) error
	// Cause finds the event that a publisher is working on by the trace context
	// of its request; the zero Cause means unknown.
	Cause func(parent trace.SpanContext) event.Cause
	// Key is the declared business key of an event, the correlation id of last
	// resort before the request id and the trace id.
	Key func(subject string, e *event.Event) string
}

// Call is what surrounds an event that is to be published.
type Call struct {
	Subject       string            // Weft subject, already checked
	Source        string            // default source; empty means the Intake's
	CorrelationID string            // the client's X-Correlation-Id
	RequestID     string            // the client's X-Request-Id
	Parent        trace.SpanContext // the client's trace context
}

// Intake turns what a client sends into a stored event: it fills, correlates,
// traces, checks and publishes. As an http.Handler it is POST
// /v1/events/{subject}. Safe for concurrent use.
type Intake struct {
	cfg     PublishConfig
	start   []trace.SpanStartOption // the same for every span
	common  []attribute.KeyValue    // of every span that is recorded
	metrics metrics
}

// PublishHandler returns the publish endpoint. It reads the subject from the
// path value "subject".
func PublishHandler(cfg PublishConfig) *Intake {
	return &Intake{
		cfg:     cfg,
		start:   []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer)},
		common:  obs.Messaging("nats", "publish", obs.OpSend, "EVENTS"),
		metrics: newMetrics(cfg.Metrics),
	}
}

// Accept publishes one event that did not come in an HTTP request of its own,
// such as a WebSocket frame, and returns when it is stored. The event is
// completed in place.
func (in *Intake) Accept(ctx context.Context, c Call, e *event.Event) (bus.Ack, error) {
	begun := time.Now()
	if err := event.CheckSubject(c.Subject); err != nil {
		return bus.Ack{}, in.refuse(err)
	}
	if err := in.admit(ctx, c.Subject, 1); err != nil {
		return bus.Ack{}, in.refuse(err)
	}
	return in.publish(ctx, c, e, begun)
}

func (in *Intake) admit(ctx context.Context, subject string, n int) error {
	if in.cfg.Admit == nil {
		return nil
	}
	return in.cfg.Admit(ctx, subject, n)
}

// publish is Accept after admission.
func (in *Intake) publish(ctx context.Context, c Call, e *event.Event, begun time.Time) (bus.Ack, error) {
	if err := in.complete(&c, e, begun); err != nil {
		return bus.Ack{}, in.refuse(err)
	}
	ctx, span := in.trace(ctx, &c, e)
	ack, err := in.cfg.Publisher.Publish(ctx, bus.Publication{Subject: c.Subject, Event: *e})
	in.settle(span, ack, err)
	in.metrics.seconds.Observe(time.Since(begun).Seconds())
	return ack, err
}

// complete gives the event everything a stored event has but its trace context,
// and checks it.
func (in *Intake) complete(c *Call, e *event.Event, now time.Time) error {
	source := c.Source
	if source == "" {
		source = in.cfg.Source
	}
	e.Fill(event.Defaults{Subject: c.Subject, Source: source, Now: now})
	if c.CorrelationID != "" && e.CorrelationID() == "" {
		e.SetExtension(event.ExtCorrelationID, c.CorrelationID)
	}
	var cause event.Cause
	if in.cfg.Cause != nil && c.Parent.IsValid() {
		cause = in.cfg.Cause(c.Parent)
	}
	key := ""
	if in.cfg.Key != nil && e.CorrelationID() == "" {
		key = in.cfg.Key(c.Subject, e)
	}
	if key == "" {
		key = c.RequestID
	}
	e.Correlate(cause, key, "")
	return e.Validate()
}

// trace opens the event's publish span and stamps its context on the event.
// The span is a child of the client's context, else of the event's own.
func (in *Intake) trace(ctx context.Context, c *Call, e *event.Event) (context.Context, trace.Span) {
	if c.Parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, c.Parent)
	} else {
		ctx = obs.Parent(ctx, *e)
	}
	ctx, span := in.cfg.Tracer.Start(ctx, "publish "+c.Subject, in.start...)
	sc := span.SpanContext()
	if !sc.IsValid() {
		return ctx, span
	}
	if e.CorrelationID() == "" {
		e.Correlate(event.Cause{}, "", sc.TraceID().String())
	}
	obs.Stamp(e, sc)
	if span.IsRecording() {
		span.SetAttributes(in.common...)
		span.SetAttributes(obs.EventAttrs(*e, c.Subject)...)
	}
	return ctx, span
}

// settle ends a publish span and counts its outcome.
func (in *Intake) settle(span trace.Span, ack bus.Ack, err error) {
	in.count(ack, err)
	if span.IsRecording() {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
			span.SetAttributes(obs.KeyErrorType.String(outcome(err)))
		} else {
			span.SetAttributes(
				obs.KeySite.String(ack.Site), obs.KeySeq.Int64(int64(ack.Seq)),
				attribute.Bool("weft.duplicate", ack.Duplicate),
			)
		}
	}
	span.End()
}

func (in *Intake) count(ack bus.Ack, err error) {
	switch {
	case err != nil:
		_ = in.refuse(err)
	case ack.Duplicate:
		in.metrics.duplicate.Inc()
	default:
		in.metrics.accepted.Inc()
	}
}

// refuse counts an event that was not stored and returns err.
func (in *Intake) refuse(err error) error {
	switch outcome(err) {
	case "rejected":
		in.metrics.rejected.Inc()
	case "limited":
		in.metrics.limited.Inc()
	case "unavailable":
		in.metrics.unavailable.Inc()
	default:
		in.metrics.failed.Inc()
	}
	return err
}

// outcome is the metric label and error.type of an event that was not stored.
func outcome(err error) string {
	if p, ok := errors.AsType[Problem](err); ok && p.Status == 429 {
		return "limited"
	}
	switch status := ProblemOf(err).Status; {
	case status == 503:
		return "unavailable"
	case status < 500:
		return "rejected"
	}
	return "failed"
}

type metrics struct {
	accepted, duplicate, rejected, limited, unavailable, failed prometheus.Counter
	seconds                                                     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_http_publish_events_total",
		Help: "Events that clients asked to publish, by result.",
	}, []string{"result"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "weft_http_publish_duration_seconds",
		Help:    "Time from the request to the stored event.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 17), // 0.1 ms to 6.5 s
	})
	reg.MustRegister(events, seconds)
	return metrics{
		accepted:    events.WithLabelValues("accepted"),
		duplicate:   events.WithLabelValues("duplicate"),
		rejected:    events.WithLabelValues("rejected"),
		limited:     events.WithLabelValues("limited"),
		unavailable: events.WithLabelValues("unavailable"),
		failed:      events.WithLabelValues("failed"),
		seconds:     seconds,
	}
}
