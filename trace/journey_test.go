package trace_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"weft.dev/weft/trace"
)

var update = flag.Bool("update", false, "write golden files")

const (
	traceA = "0af7651916cd43dd8448eb211c80319c"
	traceB = "4bf92f3577b34da6a3ce929d0e0e4736"
)

var t0 = time.Date(2026, 9, 1, 10, 0, 0, 123456000, time.UTC)

// us is an offset and a duration in microseconds.
type us struct{ offset, took int }

// at makes a span: "id<parent", "name service@site", when.
func at(ids, what string, t us, more ...func(*trace.Span)) *trace.Span {
	id, parent, _ := strings.Cut(ids, "<")
	space := strings.LastIndex(what, " ")
	name := what[:space]
	service, site, _ := strings.Cut(what[space+1:], "@")
	s := &trace.Span{
		TraceID: traceA, SpanID: id, ParentID: parent, Name: name, Kind: "internal", Status: trace.StatusUnset, Service: service, Site: site,
		Start: t0.Add(time.Duration(t.offset) * time.Microsecond), End: t0.Add(time.Duration(t.offset+t.took) * time.Microsecond),
	}
	for _, m := range more {
		m(s)
	}
	return s
}

func kind(k string) func(*trace.Span) { return func(s *trace.Span) { s.Kind = k } }

func about(event, causedBy string) func(*trace.Span) {
	return func(s *trace.Span) {
		s.Attrs = append(s.Attrs, trace.Attr{"messaging.message.conversation_id", "order-7"}, trace.Attr{"cloudevents.event_id", event})
		if causedBy != "" {
			s.Attrs = append(s.Attrs, trace.Attr{"weft.causation_id", causedBy})
		}
	}
}

func failed(why string) func(*trace.Span) {
	return func(s *trace.Span) { s.Status, s.StatusMessage = trace.StatusError, why }
}

func inB(links ...string) func(*trace.Span) {
	return func(s *trace.Span) {
		s.TraceID = traceB
		for _, l := range links {
			s.Links = append(s.Links, trace.Link{TraceID: traceA, SpanID: l})
		}
	}
}

// saga is a journey over two sites with everything a tree must cope with.
func saga() []*trace.Span {
	return []*trace.Span{
		at("a1", "publish orders.created weft@fra", us{0, 9400}, kind("producer"), about("e-1", "")),
		at("a2<a1", "store EVENTS weft@fra", us{300, 8900}),
		at("a3<a1", "link fra->iad weft@iad", us{9500, 31000}),
		at("b1<a1", "process orders.created payment@iad", us{41000, 12000}, kind("consumer"), about("e-1", ""), failed("app answered 503, attempt 3 of 5")),
		at("b2<b1", "POST payment@iad", us{41200, 11500}, kind("client")),
		at("b3<b1", "publish payments.refused payment@iad", us{54000, 2100}, kind("producer"), about("e-2", "e-1")),
		at("c1<gone", "publish audit legacy@fra", us{60000, 700}, kind("producer"), about("e-3", "e-2")),
		at("d1<lost", "deliver orders.created weft@fra", us{12000, 400}, kind("consumer"), about("e-1", "")),
		at("f1", "publish orders.created weft@iad", us{2_000_000, 900}, kind("producer"), about("e-1", ""), inB("b1")),
		at("f2<f1", "store EVENTS weft@iad", us{2_000_100, 700}, inB()),
	}
}

func TestTreeKeepsEverySpanOnce(t *testing.T) {
	tests := []struct {
		name string
		give []*trace.Span
		want []string
	}{
		{"saga", saga(), []string{
			"0 root a1", "1 child a2", "1 child a3", "1 child b1", "2 child b2", "2 child b3", "3 cause c1", "2 link f1", "3 child f2", "0 orphan d1",
		}},
		{"own parent", []*trace.Span{at("a<a", "x s", us{0, 1})}, []string{"0 orphan a"}},
		{"circle", []*trace.Span{at("a<b", "x s", us{0, 1}), at("b<a", "x s", us{1, 1})}, []string{"0 orphan b", "1 child a"}},
		{"parent in another trace does not count", []*trace.Span{at("a", "x s", us{0, 1}), at("b<a", "x s", us{1, 1}, inB())}, []string{"0 root a", "0 orphan b"}},
		{"caused by itself", []*trace.Span{at("a", "x s", us{0, 1}, about("e", "e"))}, []string{"0 root a"}},
		{"none", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			j := trace.NewJourney("x", tt.give)
			if j != nil {
				for _, r := range j.Rows {
					got = append(got, string('0'+rune(r.Depth))+" "+string(r.Relation)+" "+r.SpanID)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

func TestText(t *testing.T) {
	j := trace.NewJourney("order-7", saga())
	j.Partial, j.Silent = true, []string{"sin"}
	var b bytes.Buffer
	if err := trace.Text(&b, j); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "journey.txt")
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

func TestJourneySurvivesJSON(t *testing.T) {
	j := trace.NewJourney("order-7", saga())
	data, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	var back trace.Journey
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	var one, two bytes.Buffer
	if err := errors.Join(trace.Text(&one, j), trace.Text(&two, &back)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(one.String(), two.String()); diff != "" {
		t.Errorf("text after JSON (-before +after):\n%s", diff)
	}
}

func newStore(t *testing.T, cfg trace.StoreConfig, spans ...*trace.Span) (*trace.Store, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	s := trace.NewStore(cfg, reg)
	s.Add(spans)
	return s, reg
}

func TestStoreDropsOldestTraceFirst(t *testing.T) {
	tests := []struct {
		name string
		cfg  trace.StoreConfig
		want string
	}{
		{"spans", trace.StoreConfig{MaxSpans: 3}, `reason="spans"} 2`},
		{"bytes", trace.StoreConfig{MaxBytes: 2000}, `reason="bytes"} 2`},
		{"one trace too large", trace.StoreConfig{MaxTrace: 1}, `reason="trace_full"} 3`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, reg := newStore(t, tt.cfg)
			s.Add([]*trace.Span{at("a1", "x s", us{0, 1}, about("e-1", "")), at("a2<a1", "x s", us{0, 1})})
			s.Add([]*trace.Span{at("b1", "x s", us{0, 1}, about("e-2", ""), inB()), at("b2<b1", "x s", us{0, 1}, inB()), at("b2<b1", "twice s", us{0, 1}, inB())})
			if old, _ := s.Find([]string{"e-1"}); tt.cfg.MaxTrace == 0 && len(old) > 0 {
				t.Errorf("the oldest trace is still found: %d spans", len(old))
			}
			if fresh, _ := s.Find([]string{"e-2"}); len(fresh) == 0 {
				t.Error("the newest trace is gone")
			}
			want := "# HELP weft_trace_store_dropped_spans_total Spans refused by the trace store (invalid, trace_full) or removed at a limit (age, spans, bytes).\n" +
				"# TYPE weft_trace_store_dropped_spans_total counter\nweft_trace_store_dropped_spans_total{" + tt.want + "\n"
			if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "weft_trace_store_dropped_spans_total"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMetricNames(t *testing.T) {
	_, reg := newStore(t, trace.StoreConfig{}, saga()...)
	trace.NewQueue(trace.Tee(), quiet, reg)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}

// split gives each site its own spans.
func split(spans []*trace.Span) map[string][]*trace.Span {
	out := map[string][]*trace.Span{}
	for _, s := range spans {
		out[s.Site] = append(out[s.Site], s)
	}
	return out
}

// remote asks a second site over a real connection, and a third that stays silent.
type remote struct {
	ask    func(ctx context.Context, subject string, data []byte) ([]byte, error)
	silent bool
}

func (r remote) Sites() []string {
	if r.silent {
		return []string{"iad", "sin"}
	}
	return []string{"iad"}
}

func (r remote) Ask(ctx context.Context, site, subject string, data []byte) ([]byte, error) {
	if site == "sin" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return r.ask(ctx, subject, data)
}

func twoSites(t *testing.T, silent bool) *trace.Query {
	t.Helper()
	parts := split(saga())
	fra, _ := newStore(t, trace.StoreConfig{}, parts["fra"]...)
	iad, _ := newStore(t, trace.StoreConfig{}, parts["iad"]...)
	node := broker(t, 0)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- trace.NewServer(connect(t, node), iad, quiet).Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	await(t, "server subscribed", func() bool { return subscribed(node, "weft.trace.find") && subscribed(node, "weft.trace.recent") })
	nc := connect(t, node)
	return trace.NewQuery(fra, remote{silent: silent, ask: func(ctx context.Context, subject string, data []byte) ([]byte, error) {
		msg, err := nc.RequestWithContext(ctx, subject, data)
		if err != nil {
			return nil, err
		}
		return msg.Data, nil
	}}, quiet)
}

func TestJourneyMergesSites(t *testing.T) {
	q := twoSites(t, false)
	for _, id := range []string{traceA, traceB, "order-7", "e-1", "e-2"} {
		j, silent := q.Journey(t.Context(), id)
		if j == nil || len(silent) > 0 {
			t.Fatalf("journey %s = %v, silent %v", id, j, silent)
		}
		if len(j.Rows) != len(saga()) || j.Partial || j.Errors != 1 {
			t.Errorf("journey %s has %d rows, %d errors, partial %v; want %d, 1, false", id, len(j.Rows), j.Errors, j.Partial, len(saga()))
		}
		if diff := cmp.Diff([]string{"fra", "iad"}, j.Sites); diff != "" {
			t.Errorf("sites: %s", diff)
		}
	}
	if j, _ := q.Journey(t.Context(), "nobody"); j != nil {
		t.Errorf("unknown id gives %d rows", len(j.Rows))
	}
	recent := q.Recent(t.Context(), trace.Filter{})
	if len(recent.Journeys) != 1 {
		t.Fatalf("list has %d journeys, want 1 of both sites", len(recent.Journeys))
	}
	got := recent.Journeys[0]
	if got.ID != "order-7" || got.Name != "publish orders.created" || got.Spans != len(saga()) || !got.Error || len(got.Sites) != 2 || got.DurationMs != 2000.9 {
		t.Errorf("summary = %+v", got)
	}
}

func TestSilentSiteMakesItPartial(t *testing.T) {
	q := twoSites(t, true)
	j, _ := q.Journey(t.Context(), "order-7")
	if j == nil || !j.Partial || !slices.Equal(j.Silent, []string{"sin"}) || len(j.Rows) != len(saga()) {
		t.Fatalf("journey = %+v", j)
	}
	if recent := q.Recent(t.Context(), trace.Filter{}); !recent.Partial || len(recent.Journeys) != 1 {
		t.Errorf("list = %+v", recent)
	}
}

func TestAPI(t *testing.T) {
	store, _ := newStore(t, trace.StoreConfig{}, saga()...)
	store.Add([]*trace.Span{{TraceID: "c0ffee00000000000000000000000000", SpanID: "1", Name: "publish stock.low", Start: t0, End: t0}})
	ts := httptest.NewServer(trace.Handler(trace.NewQuery(store, nil, quiet), quiet))
	defer ts.Close()
	tests := []struct {
		path   string
		status int
		want   string
	}{
		{"/api/journeys", 200, `"id":"order-7"`},
		{"/api/journeys?errors=true&limit=1", 200, `"id":"order-7"`},
		{"/api/journeys?q=STOCK", 200, `"id":"c0ffee00000000000000000000000000"`},
		{"/api/journeys?q=c0ffee", 200, `"name":"publish stock.low"`},
		{"/api/journeys?q=c0ffee&errors=1", 200, `{"journeys":[],"partial":false}`},
		{"/api/journeys/order-7", 200, `"relation":"cause"`},
		{"/api/journeys/%2Fodd%2Fid", 404, `"detail":"no journey \"/odd/id\"`},
		{"/api/journeys?limit=many", 400, `"field":"limit"`},
		{"/api/journeys?errors=perhaps", 400, `"field":"errors"`},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, ts.URL+tt.path, nil)
			res, err := ts.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var b bytes.Buffer
			if _, err := b.ReadFrom(res.Body); err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != tt.status || !strings.Contains(b.String(), tt.want) {
				t.Errorf("answer = %d %s, want %d with %s", res.StatusCode, b.String(), tt.status, tt.want)
			}
		})
	}
}

func TestShapeOfALongJourney(t *testing.T) {
	spans := []*trace.Span{at("r", "publish x shop@fra", us{0, 10})}
	for i := range 300 {
		spans = append(spans, at(fmt.Sprintf("s%d<r", i), "store EVENTS weft@fra", us{i, 1}))
		spans = append(spans, at(fmt.Sprintf("p%d<r", i), "process x shop@fra", us{i, 2}, kind("consumer")))
	}
	store, _ := newStore(t, trace.StoreConfig{}, spans...)
	shape := store.Recent(trace.Filter{})[0].Shape
	if len(shape) != 48 || shape[0].At != 0 || shape[47].At < 280 {
		t.Errorf("shape = %d bars from %d to %d, want 48 over the whole journey", len(shape), shape[0].At, shape[len(shape)-1].At)
	}
	for _, b := range shape {
		if b.Service != "shop" {
			t.Fatalf("a bar of %s is drawn, want the services' own first", b.Service)
		}
	}
}

func BenchmarkUpload(b *testing.B) {
	store := trace.NewStore(trace.StoreConfig{}, prometheus.NewRegistry())
	batch := make([]*tracepb.Span, 512)
	for i := range batch {
		batch[i] = &tracepb.Span{Name: "process orders.created", TraceId: make([]byte, 16), SpanId: make([]byte, 8)}
		for k := range 10 {
			batch[i].Attributes = append(batch[i].Attributes, &commonpb.KeyValue{
				Key: fmt.Sprintf("messaging.key_%d", k), Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: "orders.created"}},
			})
		}
	}
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		for _, s := range batch { // eight spans to a trace
			n++
			binary.BigEndian.PutUint64(s.TraceId, n/8+1)
			binary.BigEndian.PutUint64(s.SpanId, n)
		}
		if err := store.UploadTraces(b.Context(), otlp(batch...)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/span")
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	st := store.Stats()
	b.ReportMetric(float64(m.HeapAlloc)/float64(max(1, st.Bytes)), "heap/estimate")
	b.ReportMetric(float64(st.Spans), "spans")
}
