package mesh_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// The store step at the origin and the link step at the importer hang under the
// event's creation context.
func TestSpans(t *testing.T) {
	p := newPair(t)
	spans := map[string]*tracetest.SpanRecorder{}
	for _, name := range []string{"a", "b"} {
		p.stop[name]()
		spans[name] = tracetest.NewSpanRecorder()
		d := p.deps[name]
		d.Traces = true
		d.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans[name])).Tracer("test")
		p.deps[name] = d
		p.start(t, name)
	}
	_, creation := p.deps["a"].Tracer.Start(t.Context(), "publish orders.created")
	wefttest.Eventually(t, 20*time.Second, "a link span", func() bool {
		e := event.Event{ID: event.NewID(time.Now())}
		e.Fill(event.Defaults{Subject: "orders.created", Source: "/test", Now: time.Now()})
		obs.Stamp(&e, creation.SpanContext())
		if _, err := p.node["a"].Bus().Publish(t.Context(), bus.Publication{Subject: "orders.created", Event: e}); err != nil {
			t.Fatal(err)
		}
		return len(spans["b"].Ended()) > 0
	})
	for name, want := range map[string]string{"a": "store EVENTS", "b": "link a->b"} {
		s := spans[name].Ended()[0]
		if s.Name() != want || s.SpanKind() != trace.SpanKindInternal ||
			s.Parent().SpanID() != creation.SpanContext().SpanID() || s.EndTime().Before(s.StartTime()) {
			t.Errorf("at %s: %s %v, parent %v", name, s.Name(), s.SpanKind(), s.Parent().SpanID())
		}
	}
}

func TestStatusAndMetrics(t *testing.T) {
	p := newPair(t)
	publish(t, p.node["a"].Bus(), "orders.created", "1", 10)
	level(t, p.node["a"].Bus(), p.node["b"].Bus(), 10)
	var st mesh.Status
	wefttest.Eventually(t, 10*time.Second, "link up without lag", func() bool {
		w := httptest.NewRecorder()
		p.node["a"].Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/mesh", nil))
		if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil {
			t.Fatalf("%v: %s", err, w.Body)
		}
		return st.Links[0].Up && st.Links[0].LagOut == 0
	})
	l := st.Links[0]
	if st.Site != "a" || st.Stream.Messages != 10 || st.Listen.Links == "" || l.Site != "b" || l.Node != "b-1" || l.Dials || l.RTTMs <= 0 || len(l.Exports) != 1 || l.Exports[0] != ">" {
		t.Errorf("status = %+v", st)
	}
	reg := p.deps["a"].Metrics.(*prometheus.Registry)
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	n, err := testutil.GatherAndCount(reg, "weft_mesh_link_up", "weft_stream_messages", "weft_bus_publishes_total")
	if err != nil || n < 3 {
		t.Errorf("%d series, %v", n, err)
	}
}

// A node leaves nothing running behind.
func TestNoLeak(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	n, stop := wefttest.StartStop(t, local(), wefttest.Deps(t, "a"))
	publish(t, n.Bus(), "orders.created", "1", 10)
	stop()
	goleak.VerifyNone(t, ignore)
}
