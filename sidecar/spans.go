package sidecar

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/internal/obs"
)

// SpanSubject is where sidecars send their spans, as OTLP TracesData, to the
// nodes of their site.
const SpanSubject = "weft.trace.spans"

const (
	spanQueue = 2048                   // spans waiting; more are dropped and counted
	spanBatch = 256                    // spans per message: about 128 KiB
	spanEvery = 200 * time.Millisecond // so that a search finds a journey within a second
)

// spans sends finished spans to the mesh. It never makes an event wait: what
// does not fit its queue, or is finished while the mesh is away, is dropped and
// counted.
type spans struct {
	up       *upstream
	queue    chan sdktrace.ReadOnlySpan
	exporter *otlptrace.Exporter
	provider *sdktrace.TracerProvider
	metrics  *metrics
	closed   atomic.Bool
}

func newSpans(cfg Config, instance string, up *upstream, m *metrics) *spans {
	s := &spans{up: up, queue: make(chan sdktrace.ReadOnlySpan, spanQueue), metrics: m}
	s.exporter = otlptrace.NewUnstarted(s)
	s.provider = sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(s),
		sdktrace.WithSampler(obs.Sampler(cfg.Telemetry.Traces.Sample, cfg.Telemetry.Traces.MaxPerSecond)),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", cfg.App.ID),
			attribute.String("service.instance.id", instance),
		)),
	)
	return s
}

// run sends until ctx ends, and then what is left.
func (s *spans) run(ctx context.Context) error {
	tick := time.NewTicker(spanEvery)
	defer tick.Stop()
	batch := make([]sdktrace.ReadOnlySpan, 0, spanBatch)
	for {
		select {
		case one := <-s.queue:
			if batch = append(batch, one); len(batch) < spanBatch {
				continue
			}
		case <-tick.C:
		case <-ctx.Done():
			s.closed.Store(true)
			for len(s.queue) > 0 && len(batch) < spanQueue {
				batch = append(batch, <-s.queue)
			}
			s.send(batch)
			return nil
		}
		s.send(batch)
		clear(batch)
		batch = batch[:0]
	}
}

func (s *spans) send(batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx := context.Background() // nothing below waits for the network
	if err := s.exporter.ExportSpans(ctx, batch); err != nil {
		s.metrics.spansDropped.Add(float64(len(batch)))
		return
	}
	s.metrics.spansSent.Add(float64(len(batch)))
}

// OnStart is part of sdktrace.SpanProcessor.
func (*spans) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd takes a finished span or drops it.
func (s *spans) OnEnd(one sdktrace.ReadOnlySpan) {
	if !one.SpanContext().IsSampled() {
		return
	}
	if s.closed.Load() {
		s.metrics.spansDropped.Inc()
		return
	}
	select {
	case s.queue <- one:
	default:
		s.metrics.spansDropped.Inc()
	}
}

// Shutdown is part of sdktrace.SpanProcessor; run ends with its context.
func (*spans) Shutdown(context.Context) error { return nil }

// ForceFlush is part of sdktrace.SpanProcessor; spans wait at most spanEvery.
func (*spans) ForceFlush(context.Context) error { return nil }

// Start is part of otlptrace.Client.
func (*spans) Start(context.Context) error { return nil }

// Stop is part of otlptrace.Client.
func (*spans) Stop(context.Context) error { return nil }

// UploadTraces is part of otlptrace.Client. The site is known only once there
// is a connection, so it is added here.
func (s *spans) UploadTraces(_ context.Context, traces []*tracepb.ResourceSpans) error {
	b, err := s.up.connected()
	if err != nil {
		return err
	}
	for _, rs := range traces {
		rs.Resource.Attributes = append(rs.Resource.Attributes, &commonpb.KeyValue{
			Key:   string(obs.KeySite),
			Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: b.Site()}},
		})
	}
	data, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: traces})
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	if err := b.Conn().Publish(SpanSubject, data); err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	return nil
}
