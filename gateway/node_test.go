package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"weft.dev/weft/gateway"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
)

// onNode lets a gateway work on a real mesh node.
func onNode(b *bus.Bus) setup {
	return func(_ *gateway.Config, d *gateway.Deps) { d.Log, d.Publisher, d.Site = b, b, b.Site() }
}

func publish(t *testing.T, addr, path, body string, header ...string) bus.Ack {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/v1/events/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp := do(t, req)
	var ack bus.Ack
	if err := json.NewDecoder(resp.Body).Decode(&ack); err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatalf("publish %s: status %d: %v", path, resp.StatusCode, err)
	}
	return ack
}

func TestOnNode(t *testing.T) {
	b := wefttest.Node(t)
	addr := start(t, nil, onNode(b), func(c *gateway.Config, _ *gateway.Deps) { c.Tail.Events = 16 })
	var cursors []string
	for i := range 100 {
		cursors = append(cursors, publish(t, addr, fmt.Sprintf("orders.s%d", i%2), `{"n":1}`, "Content-Type", "application/json").Cursor)
	}
	again := publish(t, addr, "orders.s0", "x", "ce-id", "7", "ce-source", "/t", "ce-type", "t", "ce-specversion", "1.0")
	dup := publish(t, addr, "orders.s0", "x", "ce-id", "7", "ce-source", "/t", "ce-type", "t", "ce-specversion", "1.0")
	if !dup.Duplicate || dup.Seq != again.Seq {
		t.Errorf("published twice: %+v, then %+v", again, dup)
	}
	c := dial(t, addr, "evs")
	s := c.sub(map[string]any{"subject": "orders.s1", "start": map[string]any{"all": true}})
	if got := collect(t, c, s.S, 50); len(got) != 50 {
		t.Errorf("%d events of orders.s1", len(got))
	}
	r := dial(t, addr)
	s = r.sub(map[string]any{"subject": ">", "start": map[string]any{"after": cursors[89]}})
	if got := collect(t, r, s.S, 11); len(got) != 11 {
		t.Errorf("%d events after the cursor", len(got))
	}
	l := dial(t, addr)
	s = l.sub(map[string]any{"subject": ">", "start": map[string]any{"last": 60}})
	if got := collect(t, l, s.S, 60); len(got) != 60 {
		t.Errorf("%d of the last events", len(got))
	}
	ack := publish(t, addr, "orders.s1", "live", "Content-Type", "text/plain")
	for _, c := range []*client{c, r, l} {
		if f := c.want("ev"); f.P != fmt.Sprintf("1:%d", ack.Seq) || string(f.E.Data) != "live" || f.E.ID != ack.ID {
			t.Errorf("live event %+v", f)
		}
	}
}

// collect reads n events and then live.
func collect(t *testing.T, c *client, feed uint64, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		f := c.next()
		if f.T != "ev" && f.T != "evs" {
			t.Fatalf("after %d of %d events: %+v", len(got), n, f)
		}
		got = append(got, positions(t, f, feed)...)
	}
	c.want("live")
	return got
}

// TestDeliverSpan: one span per event and node, in the producer's trace, ending
// when the sockets that were live have the event; a browser's receipt ends the
// trace there.
func TestDeliverSpan(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	spans := tracetest.NewSpanRecorder()
	tracer := trace.NewTracerProvider(trace.WithSpanProcessor(spans)).Tracer("")
	m := newMemory()
	addr := start(t, m, func(_ *gateway.Config, d *gateway.Deps) { d.Tracer = tracer })
	var clients []*client
	for range 3 {
		c := dial(t, addr)
		c.sub(map[string]any{"subject": "orders.>"})
		c.want("live")
		clients = append(clients, c)
	}
	publish(t, addr, "stock.low", "nobody listens", "Traceparent", parent)
	publish(t, addr, "orders.created", "x", "Traceparent", parent)
	var tp, p string
	for _, c := range clients {
		f := c.want("ev")
		tp, p = f.TP, f.P
	}
	clients[0].send(map[string]any{"t": "rx", "p": p, "ms": 41})
	wefttest.Eventually(t, patience, "spans", func() bool { return len(spans.Ended()) == 4 })
	byName := map[string]trace.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		byName[s.Name()] = s
	}
	pub, del, rx := byName["publish orders.created"], byName["deliver orders.created"], byName["receive orders.created"]
	if pub == nil || del == nil || rx == nil || byName["deliver stock.low"] != nil {
		t.Fatalf("spans %v", byName)
	}
	if pub.Parent().SpanID().String() != "b7ad6b7169203331" || del.Parent().SpanID() != pub.SpanContext().SpanID() ||
		len(del.Links()) != 1 || del.SpanKind() != oteltrace.SpanKindConsumer {
		t.Errorf("deliver: parent %v, links %v, kind %v", del.Parent(), del.Links(), del.SpanKind())
	}
	if sc := del.SpanContext(); tp != "00-0af7651916cd43dd8448eb211c80319c-"+sc.SpanID().String()+"-01" {
		t.Errorf("tp %s", tp)
	}
	recipients := int64(0)
	for _, a := range del.Attributes() {
		if a.Key == obs.KeyRecipients {
			recipients = a.Value.AsInt64()
		}
	}
	if recipients != 3 {
		t.Errorf("%d recipients", recipients)
	}
	if took := rx.EndTime().Sub(rx.StartTime()); rx.Parent().SpanID() != del.SpanContext().SpanID() || took.Milliseconds() != 41 {
		t.Errorf("receive: parent %v, took %v", rx.Parent().SpanID(), took)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMemory()
	addr := start(t, m, func(_ *gateway.Config, d *gateway.Deps) { d.Metrics = reg })
	c := dial(t, addr)
	c.sub(map[string]any{"subject": "a"})
	c.want("live")
	publish(t, addr, "a", "x")
	c.want("ev")
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	want := `# HELP weft_ws_connections WebSocket connections that are open.
# TYPE weft_ws_connections gauge
weft_ws_connections 1
# HELP weft_ws_subscriptions Subscriptions of WebSocket and SSE connections.
# TYPE weft_ws_subscriptions gauge
weft_ws_subscriptions 1
# HELP weft_http_publish_events_total Events that clients asked to publish, by result.
# TYPE weft_http_publish_events_total counter
weft_http_publish_events_total{result="accepted"} 1
weft_http_publish_events_total{result="duplicate"} 0
weft_http_publish_events_total{result="failed"} 0
weft_http_publish_events_total{result="limited"} 0
weft_http_publish_events_total{result="rejected"} 0
weft_http_publish_events_total{result="unavailable"} 0
`
	err = testutil.GatherAndCompare(reg, strings.NewReader(want), "weft_ws_connections", "weft_ws_subscriptions", "weft_http_publish_events_total")
	if err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	bad := gateway.Config{Listen: "x", Origins: []string{"shop"}}
	err := bad.Validate()
	for _, key := range []string{"listen", "origins[0]", "maxConnections", "maxSubscriptions", "maxFrame", "heartbeat", "writeTimeout", "tail.events", "tail.bytes"} {
		if err == nil || !strings.Contains(err.Error(), key+":") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if _, err := gateway.New(bad, gateway.Deps{Scope: obs.Discard()}); err == nil {
		t.Error("New takes a bad configuration")
	}
}
