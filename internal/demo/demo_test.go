package demo_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/internal/demo"
)

// collector is an OTLP/HTTP receiver that keeps the spans of every trace.
type collector struct {
	mu    sync.Mutex
	spans map[string][]string // "name @service" by trace id
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	b, err := io.ReadAll(body)
	var req coltracepb.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(b, &req) != nil {
		http.Error(w, "no OTLP", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		service := ""
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				id := hex.EncodeToString(s.TraceId)
				c.spans[id] = append(c.spans[id], s.Name+" @"+service)
			}
		}
	}
}

// TestDemo runs the demo as a user does and holds its account against what a
// collector received: one order's trace covers every part of the product.
func TestDemo(t *testing.T) {
	c := &collector{spans: map[string][]string{}}
	receiver := httptest.NewServer(c)
	defer receiver.Close()
	var out bytes.Buffer
	err := demo.Run(t.Context(), demo.Config{
		For: 4 * time.Second, Rate: 5, AnyPort: true, JSON: true, OTLP: receiver.URL, Out: &out, Log: t.Output(), Verbose: testing.Verbose(),
	})
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out.String())
	}
	var s demo.Summary
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if s.Lost != 0 || s.Duplicates != 0 || s.Orders < 10 || s.Refused != 0 {
		t.Errorf("summary = %+v", s)
	}
	for _, r := range s.Sinks {
		if r.Published == 0 || r.Delivered != r.Published {
			t.Errorf("sink %s: delivered %d of %d", r.Sink, r.Delivered, r.Published)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.spans[s.Trace]
	for _, want := range []string{
		"publish orders.created @orders",        // accepted at site fra
		"store EVENTS @orders",                  // durable there
		"link fra->iad @weft",                   // taken over by site iad
		"process orders.created @payments",      // a service behind its sidecar
		"publish payments.authorized @payments", // the event it caused
		"publish shop @weft",                    // out to Kafka
		"receive shop @weft",                    // and back in
		"publish sns shipments @weft",           // out to SNS
		"receive shipments @weft",               // and back in from SQS
		"process orders.completed @weft",        // to the partner
		"POST @weft",                            // the webhook attempt
		"deliver orders.created @weft",          // to the browser
	} {
		if !slices.Contains(got, want) {
			t.Errorf("trace %s has no span %q; it has:\n%s", s.Trace, want, strings.Join(got, "\n"))
		}
	}
}

func TestDemoRefusesWhatCannotWork(t *testing.T) {
	for _, cfg := range []demo.Config{{Rate: 0}, {Rate: -1}, {Rate: math.NaN()}, {Rate: 1e12}, {Rate: 1, For: -time.Second}} {
		cfg.AnyPort, cfg.Out, cfg.Log = true, io.Discard, io.Discard
		if err := demo.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("rate %g for %s: %v, want an error that says what works", cfg.Rate, cfg.For, err)
		}
	}
}

// Ctrl-C at any moment ends the demo without a complaint.
func TestDemoStopsDuringStart(t *testing.T) {
	for _, after := range []time.Duration{0, 10 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond, 160 * time.Millisecond} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(after, cancel)
		if err := demo.Run(ctx, demo.Config{Rate: 5, AnyPort: true, Out: io.Discard, Log: io.Discard}); err != nil {
			t.Errorf("stopped after %s: %v", after, err)
		}
		cancel()
	}
}
