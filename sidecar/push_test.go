package sidecar_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
)

func TestPushDelivers(t *testing.T) {
	s, a := newSite(t), newApp(t)
	s.publish("orders.created", "one", func(e *event.Event) {
		e.DataContentType = "application/json"
		e.Data = []byte(`{"total":12}`)
		e.SetExtension(event.ExtCorrelationID, "flow-1")
		e.SetExtension(event.ExtCausationID, "zero")
	})
	start(t, a.config(s, "    deliver: {path: /events}"))
	soon(t, "one call", func() bool { return len(a.seen()) == 1 })
	got := a.seen()[0]
	want := map[string]string{
		"Ce-Id": "one", "Ce-Source": "/test", "Ce-Type": "orders.created", "Ce-Specversion": "1.0",
		"Content-Type": "application/json", "Ce-Correlationid": "flow-1", "Ce-Causationid": "zero",
		"X-Correlation-Id": "flow-1", "Idempotency-Key": "/test/one", "Weft-Attempt": "1",
		"Weft-Subject": "orders.created", "Weft-Subscription": "work",
	}
	for k, v := range want {
		if got.header.Get(k) != v {
			t.Errorf("%s = %q, want %q", k, got.header.Get(k), v)
		}
	}
	if got.path != "/events" || got.body != `{"total":12}` {
		t.Errorf("path %s, body %s", got.path, got.body)
	}
	if !strings.HasPrefix(got.header.Get("Traceparent"), "00-") {
		t.Errorf("Traceparent = %q", got.header.Get("Traceparent"))
	}
	soon(t, "acknowledged", func() bool { return s.pending(durable) == 0 })
}

func TestPushKeepsOrder(t *testing.T) {
	s, a := newSite(t), newApp(t)
	var want []string
	for i := range 200 {
		id := fmt.Sprintf("e%03d", i)
		want = append(want, id)
		s.publish("orders.created", id)
	}
	start(t, a.config(s, "    deliver: {concurrency: 1}"))
	soon(t, "all delivered", func() bool { return len(a.seen()) >= 200 && s.pending(durable) == 0 })
	if diff := cmp.Diff(want, a.ids()); diff != "" {
		t.Errorf("order differs (-want +got):\n%s", diff)
	}
}

func TestPushRetriesThenDeadLetters(t *testing.T) {
	s, a := newSite(t), newApp(t)
	a.answers(func(w http.ResponseWriter, c call) {
		switch {
		case c.id == "poison":
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, "cannot\ndigest ", strings.Repeat("x", 2000))
		case c.id == "shy" && c.header.Get("Weft-Attempt") != "3":
			w.WriteHeader(http.StatusBadGateway)
		case c.id == "wrong":
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	})
	for _, id := range []string{"poison", "shy", "wrong", "good"} {
		s.publish("orders.created", id, func(e *event.Event) { e.SetExtension("tenant", "acme") })
	}
	s.publish("payments.made", "other")
	sc := start(t, a.config(s, `
    deliver: {concurrency: 4}
    retry: {maxAttempts: 4, initialInterval: 5ms, maxInterval: 20ms}
    circuitBreaker: {minimumNumberOfCalls: 1000}`[1:]))
	soon(t, "two dead letters, all settled", func() bool { return len(s.dead()) == 2 && s.pending(durable) == 0 })
	counts := map[string]int{}
	for _, id := range a.ids() {
		counts[id]++
	}
	if diff := cmp.Diff(map[string]int{"poison": 4, "shy": 3, "wrong": 1, "good": 1}, counts); diff != "" {
		t.Errorf("calls differ (-want +got):\n%s", diff)
	}
	dead := s.dead()
	slices.SortFunc(dead, func(x, y nats.Header) int { return strings.Compare(x.Get("ce-id"), y.Get("ce-id")) })
	want := []map[string]string{
		{"ce-id": "poison", "Weft-Dlq-Reason": "max_attempts", "Weft-Dlq-Status": "500", "Weft-Dlq-Attempts": "4"},
		{"ce-id": "wrong", "Weft-Dlq-Reason": "client_error", "Weft-Dlq-Status": "422", "Weft-Dlq-Attempts": "1"},
	}
	for i, w := range want {
		w["test-subject"], w["Weft-Dlq-Subject"], w["Weft-Dlq-Stream"] = "weft.dlq.shop.work", "orders.created", "EVENTS"
		w["ce-tenant"], w["test-data"] = "acme", w["ce-id"]
		for k, v := range w {
			if dead[i].Get(k) != v {
				t.Errorf("%s: %s = %q, want %q", w["ce-id"], k, dead[i].Get(k), v)
			}
		}
	}
	reason := dead[0].Get("Weft-Dlq-Error")
	if !strings.HasPrefix(reason, "cannot digest xxx") || len(reason) > 1024 || len(reason) < 1000 {
		t.Errorf("reason of %d bytes: %.40q", len(reason), reason)
	}
	if _, err := time.Parse(time.RFC3339Nano, dead[0].Get("Weft-Dlq-First-Failed")); err != nil {
		t.Error(err)
	}
	_, metrics := get(t, sc.admin+"/metrics")
	for _, line := range []string{
		`weft_sidecar_dead_letters_total{policy="work",reason="max_attempts"} 1`,
		`weft_sidecar_dead_letters_total{policy="work",reason="client_error"} 1`,
		`weft_sidecar_requests_total{code_class="5xx",direction="push"} 6`,
		`weft_sidecar_retries_total{outcome="give_up",policy="work"} 2`,
		`weft_sidecar_breaker_state{policy="work"} 0`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("metrics lack %s", line)
		}
	}
}

// The app fails 20 events for a while: the breaker lets no more than its
// threshold and its probes reach the app, and nothing is lost or given up.
func TestBreakerPauses(t *testing.T) {
	const events, threshold = 20, 5
	breaker := `
    deliver: {concurrency: 1}
    retry: {maxAttempts: 3, initialInterval: 1ms, maxInterval: 2ms}
    circuitBreaker: {slidingWindowType: COUNT_BASED, slidingWindowSize: "5", minimumNumberOfCalls: 5, waitDurationInOpenState: 60ms, maxWaitDurationInOpenState: 60ms, permittedNumberOfCallsInHalfOpenState: 1}`[1:]
	tests := []struct {
		name string
		fail func(*app)
		heal func(*app)
	}{
		{"500", func(a *app) { a.status(500) }, func(a *app) { a.status(204) }},
		{"refused", func(a *app) { a.kill() }, func(a *app) { a.start() }},
		{"hanging", func(a *app) {
			a.answers(func(w http.ResponseWriter, _ call) { w.WriteHeader(http.StatusTooManyRequests) })
		}, func(a *app) { a.status(200) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, a := newSite(t), newApp(t)
			var want []string
			for i := range events {
				want = append(want, fmt.Sprintf("e%02d", i))
				s.publish("orders.created", want[i])
			}
			tt.fail(a)
			sc := start(t, a.config(s, strings.Replace(breaker, "    retry", "    timeout: 1s\n    retry", 1)))
			soon(t, "several probes", func() bool {
				_, m := get(t, sc.admin+"/metrics")
				return metric(m, `weft_sidecar_breaker_transitions_total{policy="work",to="OPEN"}`) >= 4
			})
			_, m := get(t, sc.admin+"/metrics")
			opens := metric(m, `weft_sidecar_breaker_transitions_total{policy="work",to="OPEN"}`)
			if calls := len(a.seen()); calls > threshold+int(opens) {
				t.Errorf("calls = %d, want at most %d and %v probes", calls, threshold, opens)
			}
			if n := len(s.dead()); n != 0 {
				t.Errorf("dead letters while open = %d", n)
			}
			failed := len(a.seen())
			tt.heal(a)
			soon(t, "all delivered", func() bool { return s.pending(durable) == 0 })
			if n := len(s.dead()); n != 0 {
				t.Errorf("dead letters = %d", n)
			}
			got := a.ids()[failed:]
			for len(got) > events && got[0] == got[1] { // a probe under way while it healed
				got = got[1:]
			}
			if tt.name != "refused" { // attempts were spent: who has none left comes after the probe
				slices.Sort(got)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("delivered after recovery (-want +got):\n%s", diff)
			}
		})
	}
}

// metric reads one value of a metrics page.
func metric(page, series string) float64 {
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			_, _ = fmt.Sscan(rest, &v)
			return v
		}
	}
	return 0
}

// An event that fails whenever it is called with cannot hold the breaker open.
func TestBreakerSurvivesPoison(t *testing.T) {
	s, a := newSite(t), newApp(t)
	a.answers(func(w http.ResponseWriter, c call) {
		if c.id == "poison" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	s.publish("orders.created", "poison")
	for i := range 10 {
		s.publish("orders.created", fmt.Sprintf("good%d", i))
	}
	start(t, a.config(s, `
    deliver: {concurrency: 1}
    retry: {maxAttempts: 3, initialInterval: 1ms, maxInterval: 2ms}
    circuitBreaker: {slidingWindowType: COUNT_BASED, slidingWindowSize: "1", waitDurationInOpenState: 10ms, maxWaitDurationInOpenState: 10ms, permittedNumberOfCallsInHalfOpenState: 1}`[1:]))
	soon(t, "all settled", func() bool { return s.pending(durable) == 0 })
	if dead := s.dead(); len(dead) != 1 || dead[0].Get("ce-id") != "poison" {
		t.Errorf("dead letters = %v", dead)
	}
}

func TestHealthPathIsAskedFirst(t *testing.T) {
	s, a := newSite(t), newApp(t)
	var sick atomic.Bool
	sick.Store(true)
	a.answers(func(w http.ResponseWriter, _ call) {
		if sick.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	s.publish("orders.created", "one")
	cfg := a.config(s, `    circuitBreaker: {slidingWindowType: COUNT_BASED, slidingWindowSize: "1", waitDurationInOpenState: 20ms, permittedNumberOfCallsInHalfOpenState: 1}`)
	start(t, strings.Replace(cfg, "app: {id: shop,", "app: {id: shop, healthPath: /health,", 1))
	probes := func() (n int) {
		for _, c := range a.seen() {
			if c.path == "/health" {
				n++
			}
		}
		return n
	}
	soon(t, "five probes", func() bool { return probes() >= 5 })
	if n := len(a.seen()) - probes(); n != 1 {
		t.Errorf("calls with the event = %d, want 1: probes cost no attempt", n)
	}
	sick.Store(false)
	soon(t, "delivered", func() bool { return s.pending(durable) == 0 })
}

func TestRetryAfterIsKept(t *testing.T) {
	s, a := newSite(t), newApp(t)
	begun := time.Now()
	var second atomic.Int64
	a.answers(func(w http.ResponseWriter, c call) {
		if c.header.Get("Weft-Attempt") == "1" {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		second.Store(int64(time.Since(begun)))
	})
	s.publish("orders.created", "one")
	start(t, a.config(s, ""))
	soon(t, "second call", func() bool { return second.Load() > 0 })
	if d := time.Duration(second.Load()); d < time.Second {
		t.Errorf("called again after %s, want at least 1s", d)
	}
}

func TestNeverDeadLetter(t *testing.T) {
	s, a := newSite(t), newApp(t)
	a.answers(func(w http.ResponseWriter, c call) {
		if len(c.header.Get("Weft-Attempt")) < 2 { // attempts 1 to 9
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	s.publish("orders.created", "one")
	start(t, a.config(s, `
    retry: {maxAttempts: 2, initialInterval: 1ms, maxInterval: 2ms}
    deadLetter: {action: never}`[1:]))
	soon(t, "delivered", func() bool { return s.pending(durable) == 0 })
	if n := len(a.seen()); n != 10 {
		t.Errorf("calls = %d, want 10", n)
	}
	if n := len(s.dead()); n != 0 {
		t.Errorf("dead letters = %d", n)
	}
}

// A call may take longer than the node waits for an acknowledgement: the event
// is kept and no other pod gets it.
func TestLongCallIsKept(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the node's patience")
	}
	t.Parallel()
	s, a := newSite(t), newApp(t)
	a.answers(func(_ http.ResponseWriter, _ call) { <-time.After(12 * time.Second) })
	s.publish("orders.created", "one")
	cfg := a.config(s, "    timeout: 1m")
	start(t, cfg)
	start(t, cfg)
	soon(t, "acknowledged", func() bool { return s.pending(durable) == 0 })
	if n := len(a.seen()); n != 1 {
		t.Errorf("calls = %d, want 1", n)
	}
}
