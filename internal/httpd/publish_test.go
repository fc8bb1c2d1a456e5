package httpd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/internal/obs"
)

// log stores events in memory and fails those whose id is in fail.
type log struct {
	mu     sync.Mutex
	fail   map[string]error
	stored []bus.Publication
}

func (l *log) Publish(_ context.Context, p bus.Publication) (bus.Ack, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fail[p.Event.ID]; err != nil {
		return bus.Ack{}, err
	}
	p.Event.Data = bytes.Clone(p.Event.Data)
	l.stored = append(l.stored, p)
	seq := uint64(len(l.stored))
	return bus.Ack{ID: p.Event.ID, Subject: p.Subject, Site: "test", Seq: seq, Cursor: fmt.Sprintf("EVENTS@e:%d", seq)}, nil
}

func (l *log) PublishAll(ctx context.Context, ps []bus.Publication) []bus.Result {
	out := make([]bus.Result, len(ps))
	for i, p := range ps {
		out[i].Ack, out[i].Err = l.Publish(ctx, p)
	}
	return out
}

func (l *log) last(t *testing.T) event.Event {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.stored) == 0 {
		t.Fatal("nothing was stored")
	}
	return l.stored[len(l.stored)-1].Event
}

func serve(t *testing.T, cfg httpd.PublishConfig) *httptest.Server {
	t.Helper()
	if cfg.Log == nil {
		cfg.Scope = obs.Discard()
	}
	cfg.Source = "/weft/test"
	mux := http.NewServeMux()
	mux.Handle("POST /v1/events/{subject}", httpd.PublishHandler(cfg))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

func post(t *testing.T, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(answer)
}

func TestPublishForms(t *testing.T) {
	structured := `{"specversion":"1.0","id":"7","source":"/shop","type":"t","datacontenttype":"application/json","data":{"a":1}}`
	tests := []struct {
		name, body string
		header     []string
		want       event.Event // Time is not compared; ID "" means generated
	}{
		{
			"raw body is data", `{"a":1}`,
			[]string{"Content-Type", "application/json"},
			event.Event{Source: "/weft/test", Type: "orders.created", DataContentType: "application/json", Data: []byte(`{"a":1}`)},
		},
		{
			"binary", "<a/>",
			[]string{"Content-Type", "text/xml", "ce-specversion", "1.0", "ce-id", "1", "ce-source", "/s", "ce-type", "x", "ce-subject", "%C3%A4"},
			event.Event{ID: "1", Source: "/s", Type: "x", Subject: "ä", DataContentType: "text/xml", Data: []byte("<a/>")},
		},
		{
			"structured", structured,
			[]string{"Content-Type", "application/cloudevents+json; charset=utf-8"},
			event.Event{ID: "7", Source: "/shop", Type: "t", DataContentType: "application/json", Data: []byte(`{"a":1}`)},
		},
		{"empty body", "", nil, event.Event{Source: "/weft/test", Type: "orders.created"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := &log{}
			resp, body := post(t, serve(t, httpd.PublishConfig{Publisher: l}).URL+"/v1/events/orders.created", tt.body, tt.header...)
			var ack bus.Ack
			if err := json.Unmarshal([]byte(body), &ack); err != nil || resp.StatusCode != 202 {
				t.Fatalf("answer %d %s: %v", resp.StatusCode, body, err)
			}
			got := l.last(t)
			if tt.want.ID == "" {
				tt.want.ID = got.ID
			}
			if want := (bus.Ack{ID: tt.want.ID, Subject: "orders.created", Site: "test", Seq: 1, Cursor: "EVENTS@e:1"}); ack != want {
				t.Errorf("ack = %+v, want %+v", ack, want)
			}
			if got.ID == "" || got.Time == "" || got.Source != tt.want.Source || got.Type != tt.want.Type ||
				got.Subject != tt.want.Subject || got.DataContentType != tt.want.DataContentType || !bytes.Equal(got.Data, tt.want.Data) {
				t.Errorf("stored %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestPublishChunked(t *testing.T) {
	l := &log{}
	srv := serve(t, httpd.PublishConfig{Publisher: l})
	data := strings.Repeat("x", 200_000)
	resp, err := http.Post(srv.URL+"/v1/events/a.b", "text/plain", io.MultiReader(strings.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := l.last(t); resp.StatusCode != 202 || string(got.Data) != data {
		t.Errorf("status %d, %d bytes stored", resp.StatusCode, len(got.Data))
	}
}

func TestPublishBatch(t *testing.T) {
	item := func(id string) string {
		return `{"specversion":"1.0","id":"` + id + `","source":"/s","type":"t","data":1}`
	}
	unavailable := fmt.Errorf("publish: %w", bus.ErrUnavailable)
	tests := []struct {
		name   string
		fail   map[string]error
		body   string
		status int
		want   string
	}{
		{
			"all stored, in order", nil, "[" + item("1") + "," + item("2") + "]", 202,
			`[{"id":"1","subject":"a.b","site":"test","seq":1,"cursor":"EVENTS@e:1","duplicate":false},` +
				`{"id":"2","subject":"a.b","site":"test","seq":2,"cursor":"EVENTS@e:2","duplicate":false}]`,
		},
		{
			"one fails",
			map[string]error{"1": unavailable},
			"[" + item("1") + "," + item("2") + "]", 207,
			`[{"id":"1","problem":{"type":"https://weft.dev/problems/unavailable","title":"The event could not be stored now","status":503,` +
				`"detail":"try again with the same id: a repeated event is stored once"}},` +
				`{"id":"2","subject":"a.b","site":"test","seq":1,"cursor":"EVENTS@e:1","duplicate":false}]`,
		},
		{
			"all fail",
			map[string]error{"1": unavailable},
			"[" + item("1") + "]", 503,
			`{"type":"https://weft.dev/problems/unavailable","title":"The event could not be stored now","status":503,` +
				`"detail":"try again with the same id: a repeated event is stored once"}`,
		},
		{
			"one is not valid", nil, "[" + item("1") + `,{"specversion":"1.0","id":"2","time":"x"}]`, 400,
			`{"type":"https://weft.dev/problems/invalid","title":"The request holds an invalid value","status":400,` +
				`"detail":"[1].time: want an RFC 3339 time such as 2026-01-02T15:04:05Z","field":"[1].time"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := &log{fail: tt.fail}
			resp, got := post(t, serve(t, httpd.PublishConfig{Publisher: l}).URL+"/v1/events/a.b", tt.body, "Content-Type", event.MediaBatch)
			if resp.StatusCode != tt.status || got != tt.want {
				t.Errorf("answer %d %s\nwant %d %s", resp.StatusCode, got, tt.status, tt.want)
			}
			if tt.status == 400 && len(l.stored) > 0 {
				t.Errorf("%d events stored of a refused batch", len(l.stored))
			}
			if want := tt.status == 503; (resp.Header.Get("Retry-After") == "1") != want {
				t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
			}
		})
	}
}

func TestPublishOnAFullDisk(t *testing.T) {
	l := &log{fail: map[string]error{"1": fmt.Errorf("publish: %w: %w: node a-1", bus.ErrUnavailable, bus.ErrDiskFull)}}
	resp, body := post(t, serve(t, httpd.PublishConfig{Publisher: l}).URL+"/v1/events/a.b", "", "ce-specversion", "1.0", "ce-id", "1")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" || !strings.Contains(body, "/problems/disk-full") {
		t.Errorf("answer %d %v %s", resp.StatusCode, resp.Header, body)
	}
}

func TestPublishRefusals(t *testing.T) {
	big := strings.Repeat("x", event.MaxData+1)
	ok := "/v1/events/a.b"
	tests := []struct {
		name, path, body string
		header           []string
		status           int
		field            string
		limit            float64
	}{
		{"subject with a space", "/v1/events/a%20b", "", nil, 400, "subject", 0},
		{"subject with a wildcard", "/v1/events/a.*", "", nil, 400, "subject", 0},
		{"subject with an empty token", "/v1/events/a..b", "", nil, 400, "subject", 0},
		{"data too large", ok, big, nil, 413, "data", event.MaxData},
		{"binary data too large", ok, big, []string{"ce-id", "1"}, 413, "data", event.MaxData},
		{"structured data too large", ok, `{"specversion":"1.0","data":"` + big + `"}`, []string{"Content-Type", event.MediaJSON}, 413, "data", event.MaxData},
		{"structured body too large", ok, big + big, []string{"Content-Type", event.MediaJSON}, 413, "body", 2 * event.MaxData},
		{"headers too large", ok, "", []string{
			"ce-a", strings.Repeat("x", 4000), "ce-b", strings.Repeat("x", 4000),
			"ce-c", strings.Repeat("x", 4000), "ce-d", strings.Repeat("x", 4000), "ce-e", strings.Repeat("x", 4000),
		}, 413, "headers", event.MaxHeaders},
		{"not JSON", ok, "{", []string{"Content-Type", event.MediaJSON}, 400, "body", 0},
		{"no specversion", ok, "{}", []string{"Content-Type", event.MediaJSON}, 400, "specversion", 0},
		{"wrong specversion", ok, "", []string{"ce-specversion", "0.3"}, 400, "specversion", 0},
		{"bad time", ok, "", []string{"ce-time", "yesterday"}, 400, "time", 0},
		{"avro", ok, "x", []string{"Content-Type", "application/cloudevents+avro"}, 415, "Content-Type", 0},
		{"gzip", ok, "x", []string{"Content-Encoding", "gzip"}, 415, "Content-Encoding", 0},
		{"empty batch", ok, "[]", []string{"Content-Type", event.MediaBatch}, 400, "body", 0},
		{"batch with a bad item", ok, `[{"specversion":"1.0"},7]`, []string{"Content-Type", event.MediaBatch}, 400, "[1].body", 0},
	}
	l := &log{}
	srv := serve(t, httpd.PublishConfig{Publisher: l})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := post(t, srv.URL+tt.path, tt.body, tt.header...)
			var p struct {
				Type, Title, Detail, Field string
				Status                     int
				Limit                      float64
			}
			if err := json.Unmarshal([]byte(body), &p); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if resp.StatusCode != tt.status || p.Status != tt.status || p.Field != tt.field || p.Limit != tt.limit {
				t.Errorf("answer %d %s", resp.StatusCode, body)
			}
			if p.Detail == "" || p.Title == "" || !strings.HasPrefix(p.Type, httpd.TypePrefix) || resp.Header.Get("Content-Type") != httpd.ContentProblem {
				t.Errorf("incomplete problem %s as %s", body, resp.Header.Get("Content-Type"))
			}
		})
	}
	if len(l.stored) > 0 {
		t.Errorf("%d refused events were stored", len(l.stored))
	}
}

func TestPublishHooks(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	l := &log{fail: map[string]error{"boom": errors.New("disk")}}
	srv := serve(t, httpd.PublishConfig{
		Publisher: l,
		Admit: func(_ context.Context, subject string, _ int) error {
			if subject == "slow" {
				return httpd.Problem{Type: "limited", Status: 429, Detail: "at most 10 events a second", RetryAfter: 1500 * time.Millisecond}
			}
			return nil
		},
		Cause: func(sc oteltrace.SpanContext) event.Cause {
			if sc.TraceID().String() != parent[3:35] {
				return event.Cause{}
			}
			return event.Cause{ID: "cause", CorrelationID: "flow", Depth: 2}
		},
		Key: func(string, *event.Event) string { return "key" },
	})
	if resp, _ := post(t, srv.URL+"/v1/events/slow", ""); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "2" {
		t.Errorf("limited: %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	if resp, body := post(t, srv.URL+"/v1/events/a", "", "ce-id", "boom"); resp.StatusCode != 500 || strings.Contains(body, "disk") {
		t.Errorf("internal error: %d %s", resp.StatusCode, body)
	}
	tests := []struct {
		name      string
		header    []string
		want      string
		causation string
	}{
		{"own correlation id", []string{"X-Correlation-Id", "mine", "X-Request-Id", "r1", "Traceparent", parent}, "mine", "cause"},
		{"the cause's", []string{"X-Request-Id", "r1", "Traceparent", parent}, "flow", "cause"},
		{"the business key", []string{"X-Request-Id", "r1"}, "key", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, _ := post(t, srv.URL+"/v1/events/a", "", tt.header...)
			got := l.last(t)
			if got.CorrelationID() != tt.want || got.CausationID() != tt.causation || resp.Header.Get("X-Correlation-Id") != tt.want {
				t.Errorf("stored %v, answered %q", got.Extensions, resp.Header.Get("X-Correlation-Id"))
			}
			if resp.Header.Get("X-Request-Id") != req(tt.header) {
				t.Errorf("X-Request-Id %q", resp.Header.Get("X-Request-Id"))
			}
		})
	}
}

func req(header []string) string {
	for i := 0; i < len(header); i += 2 {
		if header[i] == "X-Request-Id" {
			return header[i+1]
		}
	}
	return ""
}

func TestPublishTrace(t *testing.T) {
	const (
		outer = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		own   = "00-11111111111111111111111111111111-2222222222222222-01"
	)
	tests := []struct {
		name          string
		header        []string
		parent        string // span id
		ownTraceStays bool
	}{
		{"starts a trace", nil, "0000000000000000", false},
		{"continues the request's", []string{"Traceparent", outer}, "b7ad6b7169203331", false},
		{"continues the event's", []string{"ce-traceparent", own}, "2222222222222222", true},
		{"request before event", []string{"Traceparent", outer, "ce-traceparent", own}, "b7ad6b7169203331", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, spans := &log{}, tracetest.NewSpanRecorder()
			scope := obs.Discard()
			scope.Tracer = trace.NewTracerProvider(trace.WithSpanProcessor(spans)).Tracer("")
			post(t, serve(t, httpd.PublishConfig{Scope: scope, Publisher: l}).URL+"/v1/events/orders.created", "x", tt.header...)
			if len(spans.Ended()) != 1 {
				t.Fatalf("%d spans", len(spans.Ended()))
			}
			s := spans.Ended()[0]
			if s.Name() != "publish orders.created" || s.SpanKind() != oteltrace.SpanKindProducer || s.Parent().SpanID().String() != tt.parent {
				t.Errorf("span %s %s, parent %s", s.Name(), s.SpanKind(), s.Parent().SpanID())
			}
			want := own
			if !tt.ownTraceStays {
				want = "00-" + s.SpanContext().TraceID().String() + "-" + s.SpanContext().SpanID().String() + "-01"
			}
			e := l.last(t)
			if e.Traceparent() != want || e.CorrelationID() != s.SpanContext().TraceID().String() {
				t.Errorf("event has %v, want traceparent %s", e.Extensions, want)
			}
		})
	}
}
