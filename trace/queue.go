package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// QueueSpans is how many spans wait for a slow receiver before new ones are dropped (about 10 MB).
const QueueSpans = 16_384

// Queue stands before a client that may be slow or away, normally OTLP: UploadTraces returns at once, and what finds
// the queue full is dropped and counted. Run does the sending.
type Queue struct {
	next otlptrace.Client
	log  *slog.Logger
	m    exportMetrics

	mu      sync.Mutex // guards waiting and closed
	waiting int        // spans in batches
	closed  bool
	batches chan []*tracepb.ResourceSpans // capacity QueueSpans: a batch has at least one span, so a send never blocks
}

// NewQueue makes a queue before next. Nothing is sent until Run.
func NewQueue(next otlptrace.Client, log *slog.Logger, reg prometheus.Registerer) *Queue {
	return &Queue{next: next, log: log, m: newExportMetrics(reg), batches: make(chan []*tracepb.ResourceSpans, QueueSpans)}
}

// Start does nothing: Run starts the next client.
func (q *Queue) Start(context.Context) error { return nil }

// Stop does nothing: several providers share the queue, the end of Run ends it.
func (q *Queue) Stop(context.Context) error { return nil }

// UploadTraces queues the batch or drops it; it never fails.
func (q *Queue) UploadTraces(_ context.Context, batch []*tracepb.ResourceSpans) error {
	n := countSpans(batch)
	if n == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.waiting+n > QueueSpans {
		q.m.dropped.WithLabelValues("queue_full").Add(float64(n))
		return nil
	}
	q.waiting += n
	q.batches <- batch
	return nil
}

// Run sends until ctx ends, then sends the rest for at most one upload window.
func (q *Queue) Run(ctx context.Context) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the send under way when ctx ends gets its time
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(uploadWindow, cancel) })()
	if err := q.next.Start(own); err != nil {
		return fmt.Errorf("start span export: %w", err)
	}
	for ctx.Err() == nil {
		select {
		case batch := <-q.batches:
			q.send(own, batch)
		case <-ctx.Done():
		}
	}
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	close(q.batches)
	for batch := range q.batches {
		q.send(own, batch)
	}
	if err := q.next.Stop(own); err != nil {
		return fmt.Errorf("stop span export: %w", err)
	}
	return nil
}

func (q *Queue) send(ctx context.Context, batch []*tracepb.ResourceSpans) {
	n := countSpans(batch)
	q.mu.Lock()
	q.waiting -= n
	q.mu.Unlock()
	err := q.next.UploadTraces(ctx, batch)
	var refused *RefusedError
	switch {
	case err == nil:
		q.m.sent.Add(float64(n))
	case errors.As(err, &refused):
		q.m.dropped.WithLabelValues("refused").Add(float64(refused.Spans))
		q.m.sent.Add(float64(n - refused.Spans))
		q.log.Warn("spans refused by otlp receiver", "count", refused.Spans, "err", err)
	default:
		q.m.dropped.WithLabelValues("unreachable").Add(float64(n))
		q.log.Warn("spans not exported", "count", n, "err", err)
	}
}
