package trace_test

import (
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	oteltrace "go.opentelemetry.io/otel/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/trace"
)

var quiet = slog.New(slog.DiscardHandler)

// order is an event that belongs to a flow.
func order(id, causedBy string) event.Event {
	e := event.Event{ID: id, Source: "/shop", Type: "orders.created"}
	e.SetExtension(event.ExtCorrelationID, "order-7")
	if causedBy != "" {
		e.SetExtension(event.ExtCausationID, causedBy)
	}
	return e
}

// publish runs a provider that writes one publish span with a store span below it, and shuts it down.
func publish(t *testing.T, site string, client otlptrace.Client) oteltrace.TraceID {
	t.Helper()
	p, err := trace.NewProvider(trace.ProviderConfig{Service: "weft", Site: site, Node: site + "-1", Sample: 1, Client: client}, quiet, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := p.Tracer("test").Start(t.Context(), "publish orders.created",
		oteltrace.WithSpanKind(oteltrace.SpanKindProducer), oteltrace.WithAttributes(obs.EventAttrs(order("e-1", ""), "orders.created")...))
	_, inner := p.Tracer("test").Start(ctx, "store EVENTS")
	inner.End()
	span.End()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	return span.SpanContext().TraceID()
}

// collector is an OTLP/HTTP receiver that decodes with the collector's own types.
type collector struct {
	*httptest.Server
	got  chan *coltracepb.ExportTraceServiceRequest
	busy atomic.Int32 // how many requests to refuse first
	part int64        // spans to report as rejected
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{got: make(chan *coltracepb.ExportTraceServiceRequest, 16)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("X-Key") != "secret" {
			http.Error(w, "wrong request", http.StatusBadRequest)
			return
		}
		if c.busy.Add(-1) >= 0 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		raw, err := io.ReadAll(z)
		if err != nil {
			t.Error(err)
			return
		}
		var request coltracepb.ExportTraceServiceRequest
		if err := proto.Unmarshal(raw, &request); err != nil {
			t.Error(err)
			return
		}
		c.got <- &request
		var response coltracepb.ExportTraceServiceResponse
		if c.part > 0 {
			response.PartialSuccess = &coltracepb.ExportTracePartialSuccess{RejectedSpans: c.part, ErrorMessage: "too old"}
		}
		answer, _ := proto.Marshal(&response)
		_, _ = w.Write(answer)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) client(t *testing.T) *trace.OTLP {
	t.Helper()
	o, err := trace.NewOTLP(trace.OTLPConfig{Endpoint: c.URL, Headers: map[string]string{"X-Key": "secret"}})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestSpansReachStoreAndCollector(t *testing.T) {
	c := newCollector(t)
	c.busy.Store(1) // the first request is refused and tried again
	store := trace.NewStore(trace.StoreConfig{}, prometheus.NewRegistry())
	reg := prometheus.NewRegistry()
	queue := trace.NewQueue(c.client(t), quiet, reg)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- queue.Run(ctx) }()

	id := publish(t, "fra", trace.Tee(store, queue))
	request := <-c.got
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	spans, invalid := trace.Spans(request.GetResourceSpans())
	if len(spans) != 2 || invalid != 0 {
		t.Fatalf("collector got %d spans, %d invalid, want 2 and 0", len(spans), invalid)
	}
	j := trace.NewJourney("order-7", spans)
	if got := j.Rows[0]; got.TraceID != id.String() || got.Name != "publish orders.created" || got.Kind != "producer" ||
		got.Service != "weft" || got.Site != "fra" || got.Node != "fra-1" || got.EventID() != "e-1" {
		t.Errorf("first row = %+v", got.Span)
	}
	if got := j.Rows[1]; got.Name != "store EVENTS" || got.Depth != 1 || got.Relation != trace.RelChild {
		t.Errorf("second row = %+v", got)
	}
	for _, by := range []string{id.String(), "order-7", "e-1"} {
		if kept, _ := store.Find([]string{by}); len(kept) != 2 {
			t.Errorf("store finds %d spans by %s, want 2", len(kept), by)
		}
	}
	want := "# HELP weft_trace_export_spans_total Spans the OTLP receiver accepted.\n# TYPE weft_trace_export_spans_total counter\nweft_trace_export_spans_total 2\n"
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "weft_trace_export_spans_total"); err != nil {
		t.Error(err)
	}
}

func TestRefusedSpansAreCounted(t *testing.T) {
	c := newCollector(t)
	c.part = 1
	reg := prometheus.NewRegistry()
	queue := trace.NewQueue(c.client(t), quiet, reg)
	publish(t, "fra", queue)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := queue.Run(ctx); err != nil { // what was queued before still goes out
		t.Fatal(err)
	}
	want := `# HELP weft_trace_export_dropped_spans_total Spans not exported: queue_full, refused (the receiver said no) or unreachable (retries used up).
# TYPE weft_trace_export_dropped_spans_total counter
weft_trace_export_dropped_spans_total{reason="refused"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "weft_trace_export_dropped_spans_total"); err != nil {
		t.Error(err)
	}
}

func TestFullQueueDropsAndCounts(t *testing.T) {
	reg := prometheus.NewRegistry()
	queue := trace.NewQueue(trace.Tee(), quiet, reg)
	for range trace.QueueSpans + 3 {
		if err := queue.UploadTraces(t.Context(), otlp(&tracepb.Span{})); err != nil {
			t.Fatal(err)
		}
	}
	want := `# HELP weft_trace_export_dropped_spans_total Spans not exported: queue_full, refused (the receiver said no) or unreachable (retries used up).
# TYPE weft_trace_export_dropped_spans_total counter
weft_trace_export_dropped_spans_total{reason="queue_full"} 3
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "weft_trace_export_dropped_spans_total"); err != nil {
		t.Error(err)
	}
}

func TestOTLPEndpointIsChecked(t *testing.T) {
	for _, give := range []string{"collector:4318", "ftp://x", "http://", "::"} {
		if _, err := trace.NewOTLP(trace.OTLPConfig{Endpoint: give}); err == nil || !strings.Contains(err.Error(), "telemetry.otlp.endpoint") {
			t.Errorf("NewOTLP(%q) = %v, want an error that names the key", give, err)
		}
	}
}

func TestSampling(t *testing.T) {
	store := trace.NewStore(trace.StoreConfig{}, prometheus.NewRegistry())
	p, err := trace.NewProvider(trace.ProviderConfig{Service: "weft", Sample: 0, Client: store}, quiet, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	_, dropped := p.Tracer("test").Start(t.Context(), "own trace")
	dropped.End()
	parent := oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: oteltrace.TraceID{1}, SpanID: oteltrace.SpanID{2}, TraceFlags: oteltrace.FlagsSampled, Remote: true,
	})
	_, kept := p.Tracer("test").Start(oteltrace.ContextWithRemoteSpanContext(t.Context(), parent), "sampled elsewhere")
	kept.End()
	if err := p.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := store.Stats(); got.Spans != 1 {
		t.Errorf("store holds %d spans, want only the one whose trace was sampled elsewhere", got.Spans)
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := trace.NewProvider(trace.ProviderConfig{Sample: 1.5, Client: store}, quiet, nil); err == nil {
		t.Error("a sample of 1.5 is accepted")
	}
}

func TestIngest(t *testing.T) {
	store := trace.NewStore(trace.StoreConfig{}, prometheus.NewRegistry())
	ts := httptest.NewServer(trace.Ingest(store, quiet))
	defer ts.Close()
	o, err := trace.NewOTLP(trace.OTLPConfig{Endpoint: ts.URL + "/v1/traces"})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, "iad", o)
	if got := store.Stats(); got.Spans != 2 {
		t.Errorf("store holds %d spans, want 2", got.Spans)
	}
	tests := []struct {
		name, contentType, encoding, body string
		want                              int
	}{
		{"json", "application/json", "", "{}", http.StatusUnsupportedMediaType},
		{"no protobuf", "application/x-protobuf", "", "hello", http.StatusBadRequest},
		{"no gzip", "application/x-protobuf", "gzip", "hello", http.StatusBadRequest},
		{"brotli", "application/x-protobuf", "br", "", http.StatusUnsupportedMediaType},
		{"too large", "application/x-protobuf", "", strings.Repeat("x", 16<<20+1), http.StatusRequestEntityTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, ts.URL+"/v1/traces", strings.NewReader(tt.body))
			req.Header.Set("Content-Type", tt.contentType)
			req.Header.Set("Content-Encoding", tt.encoding)
			res, err := ts.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != tt.want {
				t.Errorf("status = %d, want %d", res.StatusCode, tt.want)
			}
		})
	}
}

func TestSidecarSpansTravelOverNATS(t *testing.T) {
	node := broker(t, 4096) // a small payload limit, so that batches must be split
	store := trace.NewStore(trace.StoreConfig{}, prometheus.NewRegistry())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- trace.NewReceiver(connect(t, node), store, quiet).Run(ctx) }()
	await(t, "receiver subscribed", func() bool { return node.NumSubscriptions() > 0 && subscribed(node, trace.SpanSubject) })

	spans := make([]*tracepb.Span, 200)
	for i := range spans {
		spans[i] = &tracepb.Span{TraceId: make([]byte, 16), SpanId: []byte{0, 0, 0, 0, 0, 0, 1, byte(i)}, Name: "process orders.created"}
	}
	sender := trace.NewSender(connect(t, node))
	if err := sender.UploadTraces(t.Context(), otlp(spans...)); err != nil {
		t.Fatal(err)
	}
	ctxStop, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := sender.Stop(ctxStop); err != nil {
		t.Fatal(err)
	}
	await(t, "all spans stored", func() bool { return store.Stats().Spans == len(spans) })
	huge := &tracepb.Span{TraceId: make([]byte, 16), SpanId: make([]byte, 8), Name: strings.Repeat("x", 5000)}
	if err := sender.UploadTraces(t.Context(), otlp(huge)); err == nil {
		t.Error("a span over the payload limit is accepted")
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func otlp(spans ...*tracepb.Span) []*tracepb.ResourceSpans {
	return []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: spans}}}}
}

func broker(t *testing.T, maxPayload int32) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, MaxPayload: maxPayload, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("broker is not ready")
	}
	return s
}

func connect(t *testing.T, s *server.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func subscribed(s *server.Server, subject string) bool {
	subs, err := s.Subsz(&server.SubszOptions{Subscriptions: true, Test: subject})
	return err == nil && subs.Total > 0
}

// await polls until ok or 10 s have passed.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}
