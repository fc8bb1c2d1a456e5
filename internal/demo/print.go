package demo

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"weft.dev/weft/trace"
)

// printTable says where everything is and what to look at.
func (w *world) printTable(ready float64) {
	out := w.cfg.Out
	fmt.Fprintf(out, "Weft demo: two sites, ready in %.1f s\n\n", ready)
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, row := range [][3]string{
		{"Order board", w.url(w.page) + "/", "a browser page, fed by WebSocket from site iad"},
		{"Console fra", w.fra.url("admin") + "/", "journeys, live tail, links, webhooks of site fra"},
		{"Console iad", w.iad.url("admin") + "/", "the same at site iad, where the bridges run"},
		{"Gateway fra", w.fra.url("gateway") + "/v1", "publish, SSE, WebSocket, webhooks"},
		{"Gateway iad", w.iad.url("gateway") + "/v1", "the same at site iad"},
		{"NATS fra", w.fra.addr("client"), "any NATS client: nats sub 'ev.>'"},
		{"NATS iad", w.iad.addr("client"), "sidecars of payments and shipping dial here"},
		{"Kafka", w.kafkaAddr(), "topic shop: bridge shop-to-kafka writes it, shop-from-kafka reads it"},
		{"SNS/SQS", w.url(w.aws), "topic shipments and queue shipments, the real AWS protocol"},
		{"Sidecars", w.sidecarAddrs(), "orders and inventory at fra, payments and shipping at iad"},
	} {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", row[0], row[1], row[2])
	}
	_ = t.Flush() // a broken terminal has no one to tell
	fmt.Fprintf(out, `
%g orders per second; every tenth is refused and compensated. Try:

  weft sub 'orders.>' --server %s
  weft trace ID --server %s          (an id of the order board or of the console)
  weft pub orders.created --server %s -d '{"orderId":"mine","customer":"me","item":"loom","cents":4200}'

`, w.cfg.Rate, w.fra.url("admin"), w.fra.url("admin"), w.fra.url("admin"))
	if w.cfg.For == 0 {
		fmt.Fprintln(out, "Stop with Ctrl-C.")
	}
}

// printJourney shows one order's way through everything.
func (w *world) printJourney(ctx context.Context, id string) {
	if id == "" {
		return
	}
	j, silent := w.fra.node.Journey(ctx, id)
	if j == nil {
		fmt.Fprintf(w.cfg.Out, "journey %s is not in the store (silent sites: %v)\n", id, silent)
		return
	}
	fmt.Fprintln(w.cfg.Out, "One order's journey:")
	_ = trace.Text(w.cfg.Out, j) // a broken terminal has no one to tell
	fmt.Fprintln(w.cfg.Out)
}

func printSummary(out io.Writer, s Summary) {
	fmt.Fprintf(out, "%d orders, %d events accepted in %.0f s\n\n", s.Orders, s.Accepted, s.Seconds)
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "sink\tpublished\tdelivered\tduplicates\tlost\tp50 ms\tp99 ms\t")
	for _, r := range s.Sinks {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t\n", r.Sink, r.Published, r.Delivered, r.Duplicates, r.Lost, r.P50, r.P99)
	}
	_ = t.Flush() // a broken terminal has no one to tell
	fmt.Fprintf(out, "\nexample trace %s\nlost %d, duplicates %d\n", s.Trace, s.Lost, s.Duplicates)
}
