package httpd_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/internal/obs"
)

// sink acknowledges without storing: the benchmark is of the handler alone.
type sink struct{}

func (sink) Publish(_ context.Context, p bus.Publication) (bus.Ack, error) {
	return bus.Ack{ID: p.Event.ID, Subject: p.Subject, Site: "fra", Seq: 123456, Cursor: "EVENTS@k3x:123456"}, nil
}

func (sink) PublishAll(context.Context, []bus.Publication) []bus.Result { return nil }

// body is a request body that can be read again.
type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func handler(sampler trace.Sampler) http.Handler {
	scope := obs.Discard()
	if sampler != nil {
		scope.Tracer = trace.NewTracerProvider(trace.WithSampler(sampler)).Tracer("")
	}
	return httpd.PublishHandler(httpd.PublishConfig{Scope: scope, Publisher: sink{}, Source: "/weft/fra"})
}

func request(header map[string]string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/v1/events/orders.created", nil)
	r.SetPathValue("subject", "orders.created")
	for k, v := range header {
		r.Header.Set(k, v)
	}
	return r
}

var binary = map[string]string{
	"Content-Type": "application/json", "Ce-Specversion": "1.0", "Ce-Id": "0197-42", "Ce-Source": "/shop", "Ce-Type": "order.created",
}

func BenchmarkPublish(b *testing.B) {
	tests := []struct {
		name    string
		header  map[string]string
		sampler trace.Sampler
	}{
		{"raw", map[string]string{"Content-Type": "application/json"}, nil},
		{"binary", binary, nil},
		{"binary unsampled", binary, trace.NeverSample()},
		{"binary sampled", binary, trace.AlwaysSample()},
	}
	data := bytes.Repeat([]byte("x"), 256)
	for _, tt := range tests {
		b.Run(tt.name, func(b *testing.B) {
			h, r := handler(tt.sampler), request(tt.header)
			rd := &body{}
			r.Body, r.ContentLength = rd, int64(len(data))
			w := discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				rd.Reset(data)
				h.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkServer goes through the whole HTTP stack, client included.
func BenchmarkServer(b *testing.B) {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/events/{subject}", handler(trace.NeverSample()))
	srv := httptest.NewServer(mux)
	defer srv.Close()
	srv.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	data := bytes.Repeat([]byte("x"), 256)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := srv.Client().Post(srv.URL+"/v1/events/orders.created", "application/json", bytes.NewReader(data))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}
