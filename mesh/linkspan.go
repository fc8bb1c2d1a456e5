package mesh

import (
	"context"
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/run"
)

// traceLinks records, for every sampled event that a link brings, the time from
// its acceptance at the origin to its place in this site's stream. It reads
// headers only.
func (n *Node) traceLinks(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := n.bus.Read(ctx, bus.ReadConfig{After: math.MaxUint64, HeadersOnly: true}, n.traceLink); err != nil {
			// Just after the start a question to the server may get no answer.
			n.Log.DebugContext(ctx, "link spans not begun", "err", err)
			run.Pause(ctx, linkRetry)
		}
	}
	return nil
}

// traceLink records the span of one event.
func (n *Node) traceLink(s event.Stored) error {
	if s.Origin == n.Site || !slices.Contains(n.Sites(), s.Origin) || !obs.Sampled(s.Event) {
		return nil
	}
	attrs := append(obs.EventAttrs(s.Event, s.Path),
		obs.KeySite.String(n.Site), obs.KeyNode.String(n.Node), obs.KeySeq.Int64(int64(s.Seq)))
	_, span := n.Tracer.Start(obs.Parent(context.Background(), s.Event), "link "+s.Origin+"->"+n.Site,
		trace.WithSpanKind(trace.SpanKindInternal), trace.WithTimestamp(s.Accepted), trace.WithAttributes(attrs...))
	// The clocks of two sites differ: a span must not end before it starts.
	end := s.StoredAt
	if end.Before(s.Accepted) {
		end = s.Accepted.Add(time.Microsecond)
	}
	span.End(trace.WithTimestamp(end))
	return nil
}
