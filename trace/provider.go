// Package trace keeps and shows what happened to events: it makes the providers whose spans every role writes,
// carries finished spans to the site's store and to an OTLP receiver, and puts the spans of all sites together to
// journeys. It starts no span itself and it is not a general tracing back end. It makes no compatibility promise.
//
// Everything that takes spans is an otlptrace.Client (Store, Sender, OTLP, Queue, Tee), so pipelines are put
// together by plain construction: a node uses Tee(store, queue), a sidecar uses a Sender.
package trace

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"weft.dev/weft/internal/obs"
)

// ProviderConfig says who the spans are from and where they go.
type ProviderConfig struct {
	Service string // service.name: "weft" for a node, the app's name for a sidecar
	Site    string
	Node    string
	// Sample is the share of new traces that are recorded, 0 to 1. A trace that began elsewhere keeps the decision
	// made there, and the same trace id gets the same answer on every node.
	Sample float64
	// MaxPerSecond bounds the new traces that are recorded; 0: no limit.
	MaxPerSecond int
	Client       otlptrace.Client
}

// NewProvider makes the tracer provider of one service. Shutdown sends what is left; call it before the client's
// connection closes.
func NewProvider(cfg ProviderConfig, log *slog.Logger, reg prometheus.Registerer) (*sdktrace.TracerProvider, error) {
	if cfg.Sample < 0 || cfg.Sample > 1 {
		return nil, fmt.Errorf("telemetry.traces.sample: %v is not between 0 and 1", cfg.Sample)
	}
	attrs := []attribute.KeyValue{attribute.String(attrService, cfg.Service)}
	for _, kv := range []attribute.KeyValue{obs.KeySite.String(cfg.Site), obs.KeyNode.String(cfg.Node)} {
		if kv.Value.AsString() != "" {
			attrs = append(attrs, kv)
		}
	}
	return sdktrace.NewTracerProvider(
		sdktrace.WithResource(resource.NewSchemaless(attrs...)),
		sdktrace.WithSampler(obs.Sampler(cfg.Sample, cfg.MaxPerSecond)),
		sdktrace.WithSpanProcessor(newBatcher(cfg.Client, log, newPipeMetrics(reg))),
	), nil
}

const (
	batchDelay   = 150 * time.Millisecond // a trace is searchable well within a second
	batchSpans   = 512
	queueSpans   = 16_384 // about 10 MB of spans waiting for a slow client
	uploadWindow = 10 * time.Second
)

// batcher is a span processor that never makes a caller wait: a span that finds the queue full is dropped and counted.
type batcher struct {
	exporter *otlptrace.Exporter
	log      *slog.Logger
	m        pipeMetrics
	queue    chan sdktrace.ReadOnlySpan
	flush    chan chan struct{}
	stop     sync.Once
	stopping chan struct{} // closed by Shutdown
	done     chan struct{} // closed when run has drained
}

func newBatcher(client otlptrace.Client, log *slog.Logger, m pipeMetrics) *batcher {
	b := &batcher{
		exporter: otlptrace.NewUnstarted(client), log: log, m: m,
		queue: make(chan sdktrace.ReadOnlySpan, queueSpans), flush: make(chan chan struct{}),
		stopping: make(chan struct{}), done: make(chan struct{}),
	}
	go b.run() // ends after Shutdown
	return b
}

// OnStart does nothing.
func (b *batcher) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd queues a sampled span.
func (b *batcher) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	b.m.ended.Inc()
	select {
	case <-b.stopping:
		b.m.dropped.WithLabelValues("queue_full").Inc()
		return
	default:
	}
	select {
	case b.queue <- s:
	default:
		b.m.dropped.WithLabelValues("queue_full").Inc()
	}
}

// ForceFlush sends everything that ended before the call.
func (b *batcher) ForceFlush(ctx context.Context) error {
	sent := make(chan struct{})
	select {
	case b.flush <- sent:
	case <-b.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush spans: %w", ctx.Err())
	}
	select {
	case <-sent:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush spans: %w", ctx.Err())
	}
}

// Shutdown sends the rest and stops the client.
func (b *batcher) Shutdown(ctx context.Context) error {
	b.stop.Do(func() { close(b.stopping) })
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop sending spans: %w", ctx.Err())
	}
}

func (b *batcher) run() {
	defer close(b.done)
	ctx := context.Background()
	if err := b.exporter.Start(ctx); err != nil {
		b.log.Error("span client did not start", "err", err)
	}
	batch := make([]sdktrace.ReadOnlySpan, 0, batchSpans)
	timer := time.NewTimer(batchDelay)
	timer.Stop()
	for {
		select {
		case s := <-b.queue:
			if len(batch) == 0 {
				timer.Reset(batchDelay)
			}
			if batch = append(batch, s); len(batch) == batchSpans {
				batch = b.upload(batch)
			}
		case <-timer.C:
			batch = b.upload(batch)
		case sent := <-b.flush:
			batch = b.drain(batch)
			close(sent)
		case <-b.stopping:
			b.drain(batch)
			ctx, cancel := context.WithTimeout(ctx, uploadWindow)
			defer cancel()
			if err := b.exporter.Shutdown(ctx); err != nil {
				b.log.Warn("span client did not stop", "err", err)
			}
			return
		}
	}
}

// drain sends batch and everything queued now.
func (b *batcher) drain(batch []sdktrace.ReadOnlySpan) []sdktrace.ReadOnlySpan {
	for range len(b.queue) {
		if batch = append(batch, <-b.queue); len(batch) == batchSpans {
			batch = b.upload(batch)
		}
	}
	return b.upload(batch)
}

func (b *batcher) upload(batch []sdktrace.ReadOnlySpan) []sdktrace.ReadOnlySpan {
	if len(batch) == 0 {
		return batch
	}
	ctx, cancel := context.WithTimeout(context.Background(), uploadWindow)
	defer cancel()
	if err := b.exporter.ExportSpans(ctx, batch); err != nil {
		b.m.dropped.WithLabelValues("upload").Add(float64(len(batch)))
		b.log.Warn("spans not sent", "count", len(batch), "err", err)
	}
	clear(batch)
	return batch[:0]
}
