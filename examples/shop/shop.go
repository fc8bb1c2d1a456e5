// Package shop is a small order shop: four services that speak plain HTTP and
// know nothing of Weft but the address of the sidecar beside them. They work by
// choreography: each reacts to an event and publishes the next, and a refused
// payment is undone by a compensating event. It makes no compatibility promise.
//
// The flow of one order:
//
//	orders.created ─► payments.authorized ─► inventory.reserved ─► shipping.dispatched ─► orders.completed
//	               └► payments.refused ─► orders.cancelled
package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Order is the data of every event of the shop.
type Order struct {
	ID       string `json:"orderId"`
	Customer string `json:"customer"`
	Item     string `json:"item"`
	Cents    int    `json:"cents"`
	Reason   string `json:"reason,omitempty"`
}

// Service is one microservice. Its only tie to the rest of the shop is the URL
// of its sidecar.
type Service struct {
	Name    string
	Sidecar string       // such as http://127.0.0.1:4280
	Client  *http.Client // nil means http.DefaultClient
	react   func(subject string, o Order) (next string, out Order)
}

// ServeHTTP takes the events that the sidecar pushes: POST with CloudEvents
// headers, the order as JSON body. 204 means done; 5xx asks to try again.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet { // health check
		w.WriteHeader(http.StatusNoContent)
		return
	}
	var o Order
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&o); err != nil {
		http.Error(w, "want an order as JSON: "+err.Error(), http.StatusBadRequest)
		return
	}
	next, out := s.react(r.Header.Get("Ce-Type"), o)
	if next == "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err := s.publish(r.Context(), r.Header.Get("Traceparent"), next, out); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// publish hands an event to the sidecar. Passing the traceparent on is what any
// OpenTelemetry library does by itself; the sidecar derives the rest from it.
func (s *Service) publish(ctx context.Context, traceparent, subject string, o Order) error {
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode order %s: %w", o.ID, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Sidecar+"/v1/events/"+subject, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("publish %s: %w", subject, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if traceparent != "" {
		req.Header.Set("Traceparent", traceparent)
	}
	client := s.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("publish %s: %w", subject, err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("publish %s: %s: %s", subject, resp.Status, answer)
	}
	return nil
}
