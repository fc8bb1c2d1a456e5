package obs

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
)

// Attribute keys of spans: OpenTelemetry's messaging and cloudevents
// conventions (v1.44.0, in development) and Weft's own.
const (
	KeySystem        = attribute.Key("messaging.system")
	KeyOperationName = attribute.Key("messaging.operation.name")
	KeyOperationType = attribute.Key("messaging.operation.type")
	KeyDestination   = attribute.Key("messaging.destination.name")
	KeyTemplate      = attribute.Key("messaging.destination.template")
	KeyMessageID     = attribute.Key("messaging.message.id")
	KeyConversation  = attribute.Key("messaging.message.conversation_id") // correlation id
	KeyConsumerGroup = attribute.Key("messaging.consumer.group.name")
	KeyBatchCount    = attribute.Key("messaging.batch.message_count")
	KeyErrorType     = attribute.Key("error.type")
	KeyEventID       = attribute.Key("cloudevents.event_id")
	KeyEventSource   = attribute.Key("cloudevents.event_source")
	KeyEventType     = attribute.Key("cloudevents.event_type")
	KeySite          = attribute.Key("weft.site")
	KeyNode          = attribute.Key("weft.node")
	KeyCausation     = attribute.Key("weft.causation_id")
	KeySubject       = attribute.Key("weft.subject")
	KeyBridge        = attribute.Key("weft.bridge")
	KeySeq           = attribute.Key("weft.stream_seq")
	KeyAttempt       = attribute.Key("weft.attempt")
	KeyRecipients    = attribute.Key("weft.recipients")
	KeyStatusCode    = attribute.Key("http.response.status_code")
	KeyMethod        = attribute.Key("http.request.method")
	KeyURL           = attribute.Key("url.full")
)

// Values of KeyOperationType.
const (
	OpSend    = "send"
	OpReceive = "receive"
	OpProcess = "process"
	OpSettle  = "settle"
)

var w3c propagation.TraceContext

// creation is the carrier of an event's starting trace context.
type creation struct{ e *event.Event }

func (c creation) Get(key string) string { return c.e.Extensions[key] }
func (c creation) Set(key, value string) { c.e.SetExtension(key, value) }
func (c creation) Keys() []string        { return []string{event.ExtTraceparent, event.ExtTracestate} }

// Creation is the trace context in which the event was created; invalid when
// the event has none.
func Creation(e event.Event) trace.SpanContext {
	if e.Extensions[event.ExtTraceparent] == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(w3c.Extract(context.Background(), creation{&e}))
}

// Parent returns ctx with the event's creation context as remote parent.
func Parent(ctx context.Context, e event.Event) context.Context {
	sc := Creation(e)
	if !sc.IsValid() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, sc)
}

// Consumer prepares a span whose parent is the event's creation context and
// which also links to it, as the messaging conventions ask of one message.
func Consumer(ctx context.Context, e event.Event, attrs ...attribute.KeyValue) (context.Context, []trace.SpanStartOption) {
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attrs...)}
	if sc := Creation(e); sc.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: sc}))
	}
	return ctx, opts
}

// Sampled reports whether spans about the event are kept. It costs no
// allocation, so hot paths ask it first.
func Sampled(e event.Event) bool {
	tp := e.Extensions[event.ExtTraceparent]
	const flags = 53 // version(2)-trace(32)-span(16)-flags(2)
	if len(tp) < flags+2 {
		return false
	}
	return unhexOdd(tp[flags+1])
}

// unhexOdd reports whether a hex digit has its lowest bit set.
func unhexOdd(c byte) bool {
	switch {
	case c >= '0' && c <= '9':
		return c&1 == 1
	case c >= 'a' && c <= 'f':
		return (c-'a')&1 == 1
	}
	return false
}

// Stamp writes the span's context into the event as its starting context,
// unless the producer set one.
func Stamp(e *event.Event, sc trace.SpanContext) {
	if e.Extensions[event.ExtTraceparent] != "" || !sc.IsValid() {
		return
	}
	w3c.Inject(trace.ContextWithSpanContext(context.Background(), sc), creation{e})
}

// EventAttrs describes an event on a span.
func EventAttrs(e event.Event, subject string) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 12)
	attrs = append(
		attrs,
		KeySubject.String(subject),
		KeyMessageID.String(e.ID),
		KeyEventID.String(e.ID),
		KeyEventSource.String(e.Source),
		KeyEventType.String(e.Type),
	)
	if id := e.CorrelationID(); id != "" {
		attrs = append(attrs, KeyConversation.String(id))
	}
	if id := e.CausationID(); id != "" {
		attrs = append(attrs, KeyCausation.String(id))
	}
	return attrs
}

// Messaging are the attributes every messaging span starts with.
func Messaging(system, operation, opType, destination string) []attribute.KeyValue {
	return []attribute.KeyValue{
		KeySystem.String(system),
		KeyOperationName.String(operation),
		KeyOperationType.String(opType),
		KeyDestination.String(destination),
	}
}
