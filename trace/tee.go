package trace

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// Tee sends every batch to all clients. One client's failure does not keep the batch from the others.
func Tee(clients ...otlptrace.Client) otlptrace.Client { return tee(clients) }

type tee []otlptrace.Client

func (t tee) Start(ctx context.Context) error {
	return t.each(func(c otlptrace.Client) error { return c.Start(ctx) })
}

func (t tee) Stop(ctx context.Context) error {
	return t.each(func(c otlptrace.Client) error { return c.Stop(ctx) })
}

func (t tee) UploadTraces(ctx context.Context, batch []*tracepb.ResourceSpans) error {
	return t.each(func(c otlptrace.Client) error { return c.UploadTraces(ctx, batch) })
}

func (t tee) each(do func(otlptrace.Client) error) error {
	errs := make([]error, len(t))
	for i, c := range t {
		errs[i] = do(c)
	}
	return errors.Join(errs...)
}

func countSpans(batch []*tracepb.ResourceSpans) int {
	n := 0
	for _, rs := range batch {
		for _, scope := range rs.GetScopeSpans() {
			n += len(scope.GetSpans())
		}
	}
	return n
}
