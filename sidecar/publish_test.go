package sidecar_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/event"
	"weft.dev/weft/sidecar"
)

const publisher = `
app: {id: shop}
upstream: {urls: [%q]}
listeners: {api: "127.0.0.1:0", metrics: "127.0.0.1:0"}
publish:
  - {subjects: ["slow.>"], rateLimit: {rate: 1/h, burst: 2, onLimit: reject}}
  - {subjects: ["paced.*"], rateLimit: {rate: 20/s, burst: 1, maxDelay: 10s}}
`

func TestPublish(t *testing.T) {
	s := newSite(t)
	sc := start(t, fmt.Sprintf(publisher, s.url()))
	soon(t, "ready", func() bool { r, _ := get(t, sc.admin+"/readyz"); return r.StatusCode == 200 })
	resp, body := post(t, sc.api+"/v1/events/orders.created", `{"total":1}`, "Content-Type", "application/json", "X-Request-Id", "r-1")
	var ack struct {
		ID, Subject, Site string
		Seq               uint64
	}
	if err := json.Unmarshal([]byte(body), &ack); err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatalf("status %d, %s", resp.StatusCode, body)
	}
	if ack.Seq != 1 || ack.Site != "test" || resp.Header.Get("X-Request-Id") != "r-1" {
		t.Errorf("ack = %+v, header %v", ack, resp.Header)
	}
	got := s.stored("orders.>")[0]
	if got.ID != ack.ID || got.Source != "/app/shop" || string(got.Data) != `{"total":1}` || got.CorrelationID() != "r-1" || got.Traceparent() == "" {
		t.Errorf("stored %+v", got.Event)
	}
	resp, body = post(t, sc.api+"/v1/events/orders..created", "")
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"field":"subject"`) {
		t.Errorf("status %d, %s", resp.StatusCode, body)
	}
}

func TestRateLimits(t *testing.T) {
	s := newSite(t)
	sc := start(t, fmt.Sprintf(publisher, s.url()))
	soon(t, "ready", func() bool { r, _ := get(t, sc.admin+"/readyz"); return r.StatusCode == 200 })
	for i, want := range []int{202, 202, 429} {
		resp, body := post(t, sc.api+"/v1/events/slow.a.b", "x")
		if resp.StatusCode != want {
			t.Errorf("publish %d: status %d, want %d: %s", i, resp.StatusCode, want, body)
		}
		if want == 429 && (resp.Header.Get("Retry-After") != "3600" || !strings.Contains(body, `"limit":"1/h"`)) {
			t.Errorf("Retry-After %q, %s", resp.Header.Get("Retry-After"), body)
		}
	}
	for range 3 { // delayed, not refused
		if resp, body := post(t, sc.api+"/v1/events/paced.a", "x"); resp.StatusCode != 202 {
			t.Errorf("status %d: %s", resp.StatusCode, body)
		}
	}
	_, page := get(t, sc.admin+"/metrics")
	for series, want := range map[string]float64{
		`weft_sidecar_ratelimit_decisions_total{decision="reject",policy="slow.>"}`: 1,
		`weft_sidecar_ratelimit_decisions_total{decision="pass",policy="slow.>"}`:   2,
		`weft_sidecar_ratelimit_decisions_total{decision="delay",policy="paced.*"}`: 2,
		`weft_sidecar_requests_total{code_class="4xx",direction="publish"}`:         1,
	} {
		if got := metric(page, series); got != want {
			t.Errorf("%s = %v, want %v", series, got, want)
		}
	}
}

// The sidecar works before the mesh does, and again after it was away.
func TestUpstreamComesAndGoes(t *testing.T) {
	s := newSite(t)
	s.stop()
	sc := start(t, fmt.Sprintf(publisher, s.url()))
	resp, body := post(t, sc.api+"/v1/events/a.b", "x")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, %s", resp.StatusCode, body)
	}
	if r, _ := get(t, sc.admin+"/healthz"); r.StatusCode != 200 {
		t.Errorf("healthz = %d", r.StatusCode)
	}
	if r, why := get(t, sc.admin+"/readyz"); r.StatusCode != 503 || !strings.Contains(why, "not connected to the mesh") {
		t.Errorf("readyz = %d, %s", r.StatusCode, why)
	}
	soon(t, "its span dropped and counted", func() bool {
		_, page := get(t, sc.admin+"/metrics")
		return metric(page, `weft_sidecar_spans_total{result="dropped"}`) == 1
	})
	for range 2 {
		s.start()
		soon(t, "published", func() bool {
			r, _ := post(t, sc.api+"/v1/events/a.b", "x")
			return r.StatusCode == 202
		})
		s.stop()
		soon(t, "refused", func() bool {
			r, _ := post(t, sc.api+"/v1/events/a.b", "x")
			return r.StatusCode == 503
		})
	}
	s.start()
}

// What an app publishes while it handles an event is that event's effect.
func TestCorrelation(t *testing.T) {
	s, a := newSite(t), newApp(t)
	s.publish("orders.created", "order-1", func(e *event.Event) {
		e.SetExtension(event.ExtCorrelationID, "flow-1")
		e.SetExtension(event.ExtDepth, "4")
	})
	sc := start(t, a.config(s, ""))
	soon(t, "called", func() bool { return len(a.seen()) == 1 })
	parent := a.seen()[0].header.Get("Traceparent")
	child := parent[:36] + "00f067aa0ba902b7" + parent[52:] // a span that the app's own library made
	for _, tt := range []struct {
		name, traceparent     string
		correlation, cause    string
		depth                 int
		header, headerCorrect string
	}{
		{name: "same", traceparent: parent, correlation: "flow-1", cause: "order-1", depth: 5},
		{name: "child", traceparent: child, correlation: "flow-1", cause: "order-1", depth: 5},
		{name: "foreign", traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", correlation: "4bf92f3577b34da6a3ce929d0e0e4736"},
		{name: "own", traceparent: parent, header: "mine", correlation: "mine", cause: "order-1", depth: 5},
	} {
		header := []string{"Traceparent", tt.traceparent}
		if tt.header != "" {
			header = append(header, "X-Correlation-Id", tt.header)
		}
		resp, body := post(t, sc.api+"/v1/events/payments."+tt.name, "x", header...)
		if resp.StatusCode != 202 {
			t.Fatalf("%s: status %d: %s", tt.name, resp.StatusCode, body)
		}
		if got := resp.Header.Get("X-Correlation-Id"); got != tt.correlation {
			t.Errorf("%s: X-Correlation-Id = %q, want %q", tt.name, got, tt.correlation)
		}
		e := s.stored("payments." + tt.name)[0]
		if e.CorrelationID() != tt.correlation || e.CausationID() != tt.cause || e.Depth() != tt.depth {
			t.Errorf("%s: correlation %q, causation %q, depth %d", tt.name, e.CorrelationID(), e.CausationID(), e.Depth())
		}
		if e.Traceparent()[:36] != tt.traceparent[:36] {
			t.Errorf("%s: traceparent %s is not in the trace of %s", tt.name, e.Traceparent(), tt.traceparent)
		}
	}
}

func TestSpansTravelOverTheMesh(t *testing.T) {
	s, a := newSite(t), newApp(t)
	var mu sync.Mutex
	byName := map[string]*tracepb.Span{}
	var service, site string
	sub, err := s.bus.Conn().Subscribe("weft.trace.spans", func(m *nats.Msg) {
		var data tracepb.TracesData
		if err := proto.Unmarshal(m.Data, &data); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range data.ResourceSpans {
			for _, kv := range rs.Resource.Attributes {
				switch kv.Key {
				case "service.name":
					service = kv.Value.GetStringValue()
				case "weft.site":
					site = kv.Value.GetStringValue()
				}
			}
			for _, ss := range rs.ScopeSpans {
				for _, span := range ss.Spans {
					byName[span.Name] = span
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	sc := start(t, a.config(s, ""))
	soon(t, "ready", func() bool { r, _ := get(t, sc.admin+"/readyz"); return r.StatusCode == 200 })
	post(t, sc.api+"/v1/events/orders.created", "x")
	soon(t, "four spans", func() bool { mu.Lock(); defer mu.Unlock(); return len(byName) == 4 })
	mu.Lock()
	defer mu.Unlock()
	publish, process, call := byName["publish orders.created"], byName["process orders.created"], byName["POST"]
	if publish == nil || process == nil || call == nil || byName["store EVENTS"] == nil {
		t.Fatalf("spans = %v", byName)
	}
	if service != "shop" || site != "test" {
		t.Errorf("service.name %q, weft.site %q", service, site)
	}
	if publish.Kind != tracepb.Span_SPAN_KIND_PRODUCER || process.Kind != tracepb.Span_SPAN_KIND_CONSUMER || call.Kind != tracepb.Span_SPAN_KIND_CLIENT {
		t.Errorf("kinds %v, %v, %v", publish.Kind, process.Kind, call.Kind)
	}
	if string(process.ParentSpanId) != string(publish.SpanId) || len(process.Links) != 1 || string(process.Links[0].SpanId) != string(publish.SpanId) {
		t.Errorf("process: parent %x, links %v, want %x", process.ParentSpanId, process.Links, publish.SpanId)
	}
	if string(call.ParentSpanId) != string(process.SpanId) {
		t.Errorf("POST: parent %x, want %x", call.ParentSpanId, process.SpanId)
	}
	if tp := a.seen()[0].header.Get("Traceparent"); !strings.Contains(tp, fmt.Sprintf("%x", process.SpanId)) {
		t.Errorf("the app got %s, want the process span %x", tp, process.SpanId)
	}
}

func TestPresence(t *testing.T) {
	s, a := newSite(t), newApp(t)
	told := make(chan *nats.Msg, 64)
	sub, err := s.bus.Conn().ChanSubscribe("weft.sidecar.shop.*", told)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	s.publish("orders.created", "one")
	sc := start(t, a.config(s, ""))
	soon(t, "delivered", func() bool { return s.pending(durable) == 0 })
	var p sidecar.Presence
	soon(t, "an answer", func() bool {
		m, err := s.bus.Conn().RequestWithContext(t.Context(), "weft.sidecars", nil)
		if err != nil {
			return false
		}
		if err := json.Unmarshal(m.Data, &p); err != nil {
			t.Fatal(err)
		}
		return len(p.Subscriptions) == 1 && p.Subscriptions[0].Delivered == 1
	})
	if p.App != "shop" || p.Site != "test" || "http://"+p.API != sc.api || p.Subscriptions[0].Consumer != durable || p.Stopped {
		t.Errorf("presence = %+v", p)
	}
	sc.stop()
	last := sidecar.Presence{}
	soon(t, "the last word", func() bool {
		select {
		case m := <-told:
			if err := json.Unmarshal(m.Data, &last); err != nil {
				t.Fatal(err)
			}
		default:
		}
		return last.Stopped && last.Draining
	})
}

func TestMetricsAreWellFormed(t *testing.T) {
	cfg := sidecar.DefaultConfig()
	cfg.App.Port = 1
	cfg.Subscriptions = []sidecar.Subscription{{Name: "work", Subjects: []string{"a.>"}}}
	reg := prometheus.NewRegistry()
	api, admin := listen(t, 0), listen(t, 0)
	defer api.Close()
	defer admin.Close()
	if _, err := sidecar.New(cfg, sidecar.Deps{Log: discard, Metrics: reg, API: api, Admin: admin}); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}
