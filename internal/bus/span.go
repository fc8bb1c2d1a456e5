package bus

import (
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/internal/obs"
)

// storeSpanOptions describe the store step of a published event.
func storeSpanOptions(it *item, site string) []trace.SpanStartOption {
	attrs := append(obs.EventAttrs(it.event, it.path), obs.KeySite.String(site), obs.KeySeq.Int64(int64(it.res.Ack.Seq)))
	return []trace.SpanStartOption{
		trace.WithTimestamp(it.queuedAt),
		trace.WithSpanKind(trace.SpanKindInternal),
		trace.WithAttributes(attrs...),
	}
}
