package obs_test

import (
	"context"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/internal/obs"
)

func TestSampler(t *testing.T) {
	began := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled, Remote: true,
	})
	elsewhere := trace.ContextWithRemoteSpanContext(context.Background(), began)
	tests := []struct {
		name      string
		share     float64
		perSecond int
		ctx       context.Context
		low, high int // of 1000 spans
	}{
		{"no limit", 1, 0, context.Background(), 1000, 1000},
		{"limit", 1, 5, context.Background(), 5, 100}, // the test takes less than 19 s
		{"nothing", 0, 0, context.Background(), 0, 0},
		{"began elsewhere", 0, 1, elsewhere, 1000, 1000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := sdktrace.NewTracerProvider(sdktrace.WithSampler(obs.Sampler(tt.share, tt.perSecond)))
			tracer, kept := p.Tracer("test"), 0
			for range 1000 {
				_, span := tracer.Start(tt.ctx, "x")
				if span.SpanContext().IsSampled() {
					kept++
				}
				span.End()
			}
			if kept < tt.low || kept > tt.high {
				t.Errorf("%d of 1000 kept, want %d to %d", kept, tt.low, tt.high)
			}
		})
	}
}
