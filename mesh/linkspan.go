package mesh

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
)

// traceLinks records, for every sampled event that a link brings, the time from
// its acceptance at the origin to its place in this site's stream. It reads
// headers only.
func (n *Node) traceLinks(ctx context.Context) error {
	return n.bus.Read(ctx, bus.ReadConfig{After: math.MaxUint64, HeadersOnly: true}, func(s event.Stored) error {
		if s.Origin == n.Site || !slices.Contains(n.Sites(), s.Origin) || !obs.Sampled(s.Event) {
			return nil
		}
		attrs := append(obs.EventAttrs(s.Event, s.Path),
			obs.KeySite.String(n.Site), obs.KeyNode.String(n.Node), obs.KeySeq.Int64(int64(s.Seq)))
		name := strings.Join([]string{"link ", s.Origin, "->", n.Site}, "")
		_, span := n.Tracer.Start(obs.Parent(ctx, s.Event), name,
			trace.WithSpanKind(trace.SpanKindInternal), trace.WithTimestamp(s.Accepted), trace.WithAttributes(attrs...))
		// The clocks of two sites differ: a span must not end before it starts.
		end := s.StoredAt
		if end.Before(s.Accepted) {
			end = s.Accepted.Add(time.Microsecond)
		}
		span.End(trace.WithTimestamp(end))
		return nil
	})
}
