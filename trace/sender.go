package trace

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// SpanSubject carries finished spans inside a site, as OTLP TracesData in protobuf.
const SpanSubject = "weft.trace.spans"

// Sender hands spans to the site's nodes over NATS. It is what a sidecar exports with.
type Sender struct{ nc *nats.Conn }

// NewSender sends over nc, which stays the caller's.
func NewSender(nc *nats.Conn) *Sender { return &Sender{nc} }

// Start does nothing.
func (s *Sender) Start(context.Context) error { return nil }

// Stop writes out what nc has buffered.
func (s *Sender) Stop(ctx context.Context) error {
	if err := s.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("flush spans: %w", err)
	}
	return nil
}

// UploadTraces publishes the batch, in as many messages as the server's payload limit asks for.
func (s *Sender) UploadTraces(_ context.Context, batch []*tracepb.ResourceSpans) error {
	return s.send(batch)
}

func (s *Sender) send(batch []*tracepb.ResourceSpans) error {
	limit := s.nc.MaxPayload()
	data, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: batch})
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	if limit <= 0 || int64(len(data)) <= limit {
		if err := s.nc.Publish(SpanSubject, data); err != nil {
			return fmt.Errorf("publish spans: %w", err)
		}
		return nil
	}
	one, two := split(batch)
	if two == nil {
		return fmt.Errorf("publish spans: one span takes %d bytes, the server's limit is %d", len(data), limit)
	}
	if err := s.send(one); err != nil {
		return err
	}
	return s.send(two)
}

// split cuts a batch into halves; two is nil when it is one span. The halves share the spans.
func split(batch []*tracepb.ResourceSpans) (one, two []*tracepb.ResourceSpans) {
	total, n := countSpans(batch), 0
	if total < 2 {
		return batch, nil
	}
	for _, rs := range batch {
		a := &tracepb.ResourceSpans{Resource: rs.GetResource(), SchemaUrl: rs.GetSchemaUrl()}
		b := &tracepb.ResourceSpans{Resource: rs.GetResource(), SchemaUrl: rs.GetSchemaUrl()}
		for _, scope := range rs.GetScopeSpans() {
			cut := min(max(total/2-n, 0), len(scope.GetSpans()))
			n += len(scope.GetSpans())
			a.ScopeSpans = appendScope(a.GetScopeSpans(), scope, scope.GetSpans()[:cut])
			b.ScopeSpans = appendScope(b.GetScopeSpans(), scope, scope.GetSpans()[cut:])
		}
		if len(a.GetScopeSpans()) > 0 {
			one = append(one, a)
		}
		if len(b.GetScopeSpans()) > 0 {
			two = append(two, b)
		}
	}
	return one, two
}

func appendScope(list []*tracepb.ScopeSpans, like *tracepb.ScopeSpans, spans []*tracepb.Span) []*tracepb.ScopeSpans {
	if len(spans) == 0 {
		return list
	}
	return append(list, &tracepb.ScopeSpans{Scope: like.GetScope(), SchemaUrl: like.GetSchemaUrl(), Spans: spans})
}

// Receiver takes the spans that sidecars send and hands them to a client, normally the node's Tee of store and
// export queue.
type Receiver struct {
	nc   *nats.Conn
	next otlptrace.Client
	log  *slog.Logger
}

// NewReceiver listens on nc once it runs.
func NewReceiver(nc *nats.Conn, next otlptrace.Client, log *slog.Logger) *Receiver {
	return &Receiver{nc, next, log}
}

// Run receives until ctx ends.
func (r *Receiver) Run(ctx context.Context) error {
	sub, err := r.nc.Subscribe(SpanSubject, func(msg *nats.Msg) {
		var data tracepb.TracesData
		if err := proto.Unmarshal(msg.Data, &data); err != nil {
			r.log.Warn("spans not decoded", "bytes", len(msg.Data), "err", err)
			return
		}
		if err := r.next.UploadTraces(ctx, data.GetResourceSpans()); err != nil {
			r.log.Warn("spans not taken", "err", err)
		}
	})
	if err != nil {
		return fmt.Errorf("receive spans: %w", err)
	}
	<-ctx.Done()
	if err := sub.Unsubscribe(); err != nil && r.nc.IsConnected() {
		return fmt.Errorf("stop receiving spans: %w", err)
	}
	return nil
}
