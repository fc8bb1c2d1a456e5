package shop_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"weft.dev/weft/examples/shop"
)

// sidecar records what a service publishes.
type sidecar struct {
	subject, traceparent, body string
	status                     int
}

func (s *sidecar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.subject, s.traceparent, s.body = r.URL.Path, r.Header.Get("Traceparent"), string(b)
	w.WriteHeader(s.status)
}

func TestServicesReact(t *testing.T) {
	tests := []struct {
		name    string
		service func(string, *http.Client) *shop.Service
		give    string
		cents   string
		want    string
	}{
		{"payment authorizes", shop.Payments, "orders.created", "100", "/v1/events/payments.authorized"},
		{"payment refuses", shop.Payments, "orders.created", "50001", "/v1/events/payments.refused"},
		{"inventory reserves", shop.Inventory, "payments.authorized", "100", "/v1/events/inventory.reserved"},
		{"shipping dispatches", shop.Shipping, "inventory.reserved", "100", "/v1/events/shipping.dispatched"},
		{"order completes", shop.Orders, "shipping.dispatched", "100", "/v1/events/orders.completed"},
		{"order is compensated", shop.Orders, "payments.refused", "100", "/v1/events/orders.cancelled"},
		{"others are ignored", shop.Orders, "orders.created", "100", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := &sidecar{status: http.StatusAccepted}
			side := httptest.NewServer(rec)
			defer side.Close()
			req := httptest.NewRequest(http.MethodPost, "/events", strings.NewReader(`{"orderId":"o1","cents":`+tt.cents+`}`))
			req.Header.Set("Ce-Type", tt.give)
			req.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			w := httptest.NewRecorder()
			tt.service(side.URL, nil).ServeHTTP(w, req)
			if w.Code != http.StatusNoContent {
				t.Fatalf("status = %d: %s", w.Code, w.Body)
			}
			if rec.subject != tt.want {
				t.Errorf("published %q, want %q", rec.subject, tt.want)
			}
			if tt.want != "" && (rec.traceparent == "" || !strings.Contains(rec.body, `"o1"`)) {
				t.Errorf("traceparent %q, body %q: want both passed on", rec.traceparent, rec.body)
			}
		})
	}
}

func TestServiceAsksForRetryWhenItsSidecarIsDown(t *testing.T) {
	rec := &sidecar{status: http.StatusServiceUnavailable}
	side := httptest.NewServer(rec)
	defer side.Close()
	req := httptest.NewRequest(http.MethodPost, "/events", strings.NewReader(`{"orderId":"o1"}`))
	req.Header.Set("Ce-Type", "orders.created")
	w := httptest.NewRecorder()
	shop.Payments(side.URL, nil).ServeHTTP(w, req)
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status = %d, want 503 so that the sidecar tries again", w.Code)
	}
}
