// Package obs is what every role observes with: a logger, a metrics registry
// and a tracer, and the one list of attribute keys. It makes no compatibility
// promise.
package obs

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Scope is embedded in every role's Deps.
type Scope struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Tracer  trace.Tracer
}

// Discard observes nothing.
func Discard() Scope {
	return Scope{
		Log:     slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(),
		Tracer:  noop.NewTracerProvider().Tracer("weft"),
	}
}

// With returns the scope with log attributes added.
func (s Scope) With(args ...any) Scope {
	s.Log = s.Log.With(args...)
	return s
}

// Logger wraps a handler so that records carry trace_id and correlation_id from
// their context.
func Logger(h slog.Handler) *slog.Logger { return slog.New(contextHandler{h}) }

type contextHandler struct{ slog.Handler }

func (h contextHandler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()))
	}
	if id, ok := ctx.Value(correlationKey{}).(string); ok {
		r.AddAttrs(slog.String("correlation_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h contextHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return contextHandler{h.Handler.WithAttrs(as)}
}

func (h contextHandler) WithGroup(name string) slog.Handler {
	return contextHandler{h.Handler.WithGroup(name)}
}

type correlationKey struct{}

// WithCorrelation puts the correlation id into ctx for log records.
func WithCorrelation(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return context.WithValue(ctx, correlationKey{}, id)
}
