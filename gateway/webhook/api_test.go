package webhook_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/gateway/webhook/sign"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/wefttest"
)

type problem struct {
	Type, Title, Detail, Field string
	Status                     int
	Limit                      any
}

func TestBadInput(t *testing.T) {
	b := wefttest.Node(t)
	cfg := config()
	cfg.MaxEndpoints = 1
	g := start(t, b, cfg)
	h := g.create(map[string]any{"url": "https://partner.example/", "subjects": []string{"a"}})
	at := "/v1/webhooks/" + h.ID
	tests := []struct {
		name         string
		method, path string
		give         string
		status       int
		field        string
	}{
		{"no json", "POST", "/v1/webhooks", `{`, 400, "body"},
		{"two values", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"]} {}`, 400, "body"},
		{"too large", "POST", "/v1/webhooks", `{"url":"` + strings.Repeat("a", 70<<10) + `"}`, 413, "body"},
		{"unknown field", "POST", "/v1/webhooks", `{"uri":"https://a.example"}`, 400, "uri"},
		{"wrong type", "POST", "/v1/webhooks", `{"url":7}`, 400, "url"},
		{"no url", "POST", "/v1/webhooks", `{"subjects":["a"]}`, 400, "url"},
		{"unknown scheme", "POST", "/v1/webhooks", `{"url":"ftp://a.example","subjects":["a"]}`, 400, "url"},
		{"plain http", "POST", "/v1/webhooks", `{"url":"http://8.8.8.8/","subjects":["a"]}`, 400, "url"},
		{"private address", "POST", "/v1/webhooks", `{"url":"https://10.0.0.8/","subjects":["a"]}`, 400, "url"},
		{"metadata address", "POST", "/v1/webhooks", `{"url":"https://[::ffff:169.254.169.254]/","subjects":["a"]}`, 400, "url"},
		{"no subjects", "POST", "/v1/webhooks", `{"url":"https://a.example"}`, 400, "subjects"},
		{"bad pattern", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a","b..c"]}`, 400, "subjects[1]"},
		{"bad mode", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"],"mode":"xml"}`, 400, "mode"},
		{"bad timeout", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"],"timeout":"soon"}`, 400, "timeout"},
		{"long timeout", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"],"timeout":"10m"}`, 400, "timeout"},
		{"bad version", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"],"signatures":["v2"]}`, 400, "signatures[0]"},
		{"shown header", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"],"headers":{"X-Key":"[redacted]"}}`, 400, "headers.X-Key"},
		{"negative grace", "POST", at + "/rotate", `{"grace":"-1h"}`, 400, "grace"},
		{"no time", "POST", at + "/replay", `{"since":"yesterday"}`, 400, "since"},
		{"own header", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"],"headers":{"Webhook-Id":"x"}}`, 400, "headers.Webhook-Id"},
		{"bad header", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"],"headers":{"A":"x\r\ny"}}`, 400, "headers.A"},
		{"bad secret", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"],"secret":"whsec_AAAA"}`, 400, "secret"},
		{"too many", "POST", "/v1/webhooks", `{"url":"https://a.example","subjects":["a"]}`, 409, ""},
		{"unknown id", "GET", "/v1/webhooks/wh_none", ``, 404, ""},
		{"impossible id", "GET", "/v1/webhooks/a%20b", ``, 404, ""},
		{"unknown call", "POST", at + "/explode", ``, 404, ""},
		{"wrong method", "PUT", "/v1/webhooks", ``, 405, ""},
		{"patch bad url", "PATCH", at, `{"url":"https://127.0.0.1.nip.io:x"}`, 400, "url"},
		{"patch secret", "PATCH", at, `{"secret":"whsec_x"}`, 400, "secret"},
		{"put needs all", "PUT", at, `{"url":"https://a.example"}`, 400, "subjects"},
		{"long grace", "POST", at + "/rotate", `{"grace":"30d"}`, 400, "grace"},
		{"replay of nothing", "POST", at + "/replay", `{}`, 400, "after"},
		{"replay of the future", "POST", at + "/replay", `{"after":"99"}`, 400, "after"},
		{"replay of nonsense", "POST", at + "/replay", `{"after":"x"}`, 400, "after"},
		{"bad limit", "GET", at + "/attempts?limit=0", ``, 400, "limit"},
		{"bad page", "GET", "/v1/webhooks?after=wh_none", ``, 400, "after"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p problem
			if got := g.call(tt.method, tt.path, tt.give, &p); got != tt.status || p.Status != tt.status {
				t.Fatalf("answered %d %+v, want %d", got, p, tt.status)
			}
			if p.Field != tt.field || p.Detail == "" {
				t.Errorf("problem %+v, want field %q and a detail", p, tt.field)
			}
			if strings.Contains(p.Detail, "whsec_AAAA") {
				t.Error("the answer shows a secret")
			}
		})
	}
	// A new endpoint is lagging for a moment: it begins at a stored cursor.
	wefttest.Eventually(t, 10*time.Second, "a live endpoint after bad input", func() bool { return g.status(h.ID).State == "live" })
}

func TestLifecycle(t *testing.T) {
	b := wefttest.Node(t)
	g := start(t, b, config())
	rc := receive(t, nil)
	mine := sign.Generate(sign.V1).Text()
	h := g.create(map[string]any{
		"url": rc.URL, "subjects": []string{"a"}, "secret": mine, "headers": map[string]string{"Authorization": "Bearer hidden"},
	})
	if h.Secret != mine {
		t.Errorf("secret %q, want the given one", h.Secret)
	}
	var raw map[string]any
	g.call("GET", "/v1/webhooks/"+h.ID, nil, &raw)
	text, _ := json.Marshal(raw)
	if strings.Contains(string(text), "whsec_") || strings.Contains(string(text), "hidden") || raw["timeout"] != "15s" || raw["mode"] != "structured" {
		t.Errorf("shown again: %s", text)
	}

	var rotated hook
	if got := g.call("POST", "/v1/webhooks/"+h.ID+"/rotate", map[string]any{"grace": "1h"}, &rotated); got != http.StatusOK {
		t.Fatalf("rotate answered %d", got)
	}
	if got := g.call("PATCH", "/v1/webhooks/"+h.ID, map[string]any{
		"subjects": []string{"b"}, "timeout": "2s", "headers": map[string]string{"Authorization": "[redacted]", "X-New": "1"}, // as it was shown
	}, nil); got != http.StatusOK {
		t.Fatalf("patch answered %d", got)
	}
	publish(t, b, "a", 1)
	publish(t, b, "b", 1)
	wefttest.Eventually(t, 5*time.Second, "one delivered", func() bool { return len(rc.all()) == 1 })
	re := rc.all()[0]
	got := sign.Received{ID: re.id, Timestamp: re.header.Get(sign.HeaderTimestamp), Signature: re.header.Get(sign.HeaderSignature), Body: re.body}
	for _, text := range []string{mine, rotated.Secret, h.PublicKey, rotated.PublicKey} {
		k, err := sign.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := sign.Verify([]sign.Key{k}, got, time.Now(), time.Minute); err != nil {
			t.Errorf("%s: %v", k.Version(), err)
		}
	}
	if re.header.Get("Authorization") != "Bearer hidden" || re.header.Get("X-New") != "1" {
		t.Errorf("headers %v after a change that sent the shown value back", re.header)
	}
	if re.event.Type != "b" {
		t.Errorf("event %s came after the subjects were changed", re.event.Type)
	}

	g.call("POST", "/v1/webhooks/"+h.ID+"/rotate", map[string]any{"grace": "0s"}, &rotated)
	publish(t, b, "b", 1)
	wefttest.Eventually(t, 5*time.Second, "second delivered", func() bool { return len(rc.all()) == 2 })
	if s := rc.all()[1].header.Get(sign.HeaderSignature); strings.Count(s, ",") != 2 {
		t.Errorf("signature %q, want one entry per version after a rotation without grace", s)
	}

	var page struct {
		Webhooks []hook
		Total    int
	}
	for _, path := range []string{"/v1/webhooks", "/api/webhooks"} {
		if g.call("GET", path, nil, &page); page.Total != 1 || page.Webhooks[0].ID != h.ID || page.Webhooks[0].Status.State == "" {
			t.Errorf("%s: %+v", path, page)
		}
	}
	if got := g.call("DELETE", "/v1/webhooks/"+h.ID, nil, nil); got != http.StatusNoContent {
		t.Fatalf("delete answered %d", got)
	}
	publish(t, b, "b", 1)
	if got := g.call("GET", "/v1/webhooks/"+h.ID, nil, nil); got != http.StatusNotFound {
		t.Errorf("deleted webhook answers %d", got)
	}
	other := g.create(map[string]any{"url": rc.URL, "subjects": []string{"b"}})
	publish(t, b, "b", 1)
	wefttest.Eventually(t, 5*time.Second, "third delivered", func() bool { return g.status(other.ID).Delivered == 1 })
	if n := len(rc.all()); n != 3 {
		t.Errorf("%d requests, want 3: none for the deleted endpoint", n)
	}
}

// TestWebhookID checks that ids that are no UUID are made safe and unique.
func TestWebhookID(t *testing.T) {
	b := wefttest.Node(t)
	g := start(t, b, config())
	rc := receive(t, nil)
	g.create(map[string]any{"url": rc.URL, "subjects": []string{">"}})
	for _, source := range []string{"/one", "/two"} {
		e := event.Event{ID: "order.7", Source: source, Type: "x", Data: []byte("1")}
		if _, err := b.Publish(t.Context(), bus.Publication{Subject: "a", Event: e}); err != nil {
			t.Fatal(err)
		}
	}
	wefttest.Eventually(t, 5*time.Second, "two delivered", func() bool { return len(rc.all()) == 2 })
	if len(rc.ids()) != 2 {
		t.Errorf("the same id from two sources must differ: %v", rc.ids())
	}
	for id := range rc.ids() {
		if strings.Contains(id, ".") || !strings.HasPrefix(id, "msg_") {
			t.Errorf("webhook-id %q", id)
		}
	}
}

func TestSpans(t *testing.T) {
	b := wefttest.Node(t)
	rec := tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec))
	g := start(t, b, config(), func(d *webhook.Deps) { d.Tracer = tp.Tracer("test") })
	rc := receive(t, nil)
	g.create(map[string]any{"url": rc.URL + "/hook?token=secret", "subjects": []string{"a"}, "traceparent": true})
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	e := event.Event{Data: []byte("1")}
	e.Fill(event.Defaults{Subject: "a", Source: "/t", Now: time.Now()})
	e.SetExtension(event.ExtTraceparent, parent)
	if _, err := b.Publish(t.Context(), bus.Publication{Subject: "a", Event: e}); err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 5*time.Second, "spans", func() bool { return len(rec.Ended()) == 2 })
	post, process := rec.Ended()[0], rec.Ended()[1]
	if post.Name() != "POST" || post.SpanKind() != trace.SpanKindClient || post.Parent().SpanID() != process.SpanContext().SpanID() {
		t.Errorf("first span %s %s", post.Name(), post.SpanKind())
	}
	if process.Name() != "process a" || process.SpanKind() != trace.SpanKindConsumer ||
		process.Parent().SpanID().String() != "00f067aa0ba902b7" || len(process.Links()) != 1 {
		t.Errorf("second span %s %s parent %s", process.Name(), process.SpanKind(), process.Parent().SpanID())
	}
	for _, a := range post.Attributes() {
		if strings.Contains(a.Value.String(), "secret") {
			t.Errorf("span attribute %s shows the query", a.Key)
		}
	}
	if got := rc.all()[0].header.Get("Traceparent"); got != parent {
		t.Errorf("traceparent %q", got)
	}
}

func TestMetrics(t *testing.T) {
	b := wefttest.Node(t)
	reg := prometheus.NewRegistry()
	g := start(t, b, config(), func(d *webhook.Deps) { d.Metrics = reg })
	rc := receive(t, nil)
	g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
	publish(t, b, "a", 2)
	wefttest.Eventually(t, 5*time.Second, "counted", func() bool {
		return testutil.CollectAndCount(reg, "weft_webhook_attempts_total") == 1 && len(rc.all()) == 2
	})
	wefttest.Eventually(t, 5*time.Second, "swept", func() bool { return testutil.CollectAndCount(reg, "weft_webhook_endpoints") == 4 })
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}

func TestConfig(t *testing.T) {
	if err := webhook.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	cfg := webhook.DefaultConfig()
	cfg.Concurrency, cfg.Timeout = 0, conf.Duration(time.Hour)
	cfg.Retry = append(cfg.Retry, 0)
	err := cfg.Validate()
	for _, want := range []string{"concurrency", "timeout", "retry[9]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want a mistake in %s", err, want)
		}
	}
}

// TestGarbageStaysReadable: what a stranger answers cannot spoil spans, which
// must be UTF-8.
func TestGarbageStaysReadable(t *testing.T) {
	b := wefttest.Node(t)
	rec := tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec))
	g := start(t, b, config(), func(d *webhook.Deps) { d.Tracer = tp.Tracer("test") })
	rc := receive(t, func(_ int, w http.ResponseWriter, _ received) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = c.Write([]byte("HTTP/1.1 500 \xff" + strings.Repeat("x", 8<<10) + "\r\nContent-Length: 2\r\n\r\n\xff\xfe"))
		_ = c.Close()
	})
	g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
	e := event.Event{ID: "1", Source: "/t", Type: "t"}
	e.SetExtension(event.ExtTraceparent, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if _, err := b.Publish(t.Context(), bus.Publication{Subject: "a", Event: e}); err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 5*time.Second, "spans", func() bool { return len(rec.Ended()) >= 2 })
	for _, s := range rec.Ended()[:2] {
		if d := s.Status().Description; !utf8.ValidString(d) || len(d) > 2<<10 || !strings.HasPrefix(d, "answered 500") {
			t.Errorf("span %s: status %.100q of %d bytes", s.Name(), d, len(d))
		}
	}
}
