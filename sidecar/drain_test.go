package sidecar_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"testing"
)

var discard = slog.New(slog.DiscardHandler)

// A sidecar that stops finishes its calls and gives the rest to another at once;
// the app can publish until the end.
func TestDrain(t *testing.T) {
	s, a := newSite(t), newApp(t)
	release := make(chan struct{})
	a.answers(func(_ http.ResponseWriter, _ call) { <-release })
	for i := range 8 {
		s.publish("orders.created", fmt.Sprintf("e%d", i))
	}
	first := start(t, a.config(s, "    deliver: {concurrency: 2}"))
	soon(t, "two calls under way", func() bool { return len(a.seen()) == 2 })
	first.cancel()
	soon(t, "not ready", func() bool { r, _ := get(t, first.admin+"/readyz"); return r.StatusCode == 503 })
	if r, body := post(t, first.api+"/v1/events/payments.made", "x"); r.StatusCode != 202 {
		t.Errorf("publish while draining: %d, %s", r.StatusCode, body)
	}
	a.answers(nil)
	start(t, a.config(s, "    deliver: {concurrency: 2}"))
	soon(t, "the others at the second sidecar", func() bool { return len(a.seen()) == 8 })
	close(release)
	first.stop()
	soon(t, "all settled", func() bool { return s.pending(durable) == 0 })
	ids := a.ids()
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 8 || len(a.seen()) != 8 {
		t.Errorf("%d calls for %d events, want 8 for 8", len(a.seen()), n)
	}
}

// A call that outlasts the drain is cut, and its event goes to the next sidecar.
func TestDrainCutsLateCalls(t *testing.T) {
	s, a := newSite(t), newApp(t)
	release := make(chan struct{})
	a.answers(func(_ http.ResponseWriter, _ call) { <-release })
	defer close(release)
	s.publish("orders.created", "one")
	first := start(t, replaceDrain(a.config(s, ""), "20ms"))
	soon(t, "called", func() bool { return len(a.seen()) == 1 })
	first.stop()
	a.answers(nil)
	start(t, a.config(s, ""))
	soon(t, "called again", func() bool { return len(a.seen()) == 2 && s.pending(durable) == 0 })
	if n := len(s.dead()); n != 0 {
		t.Errorf("dead letters = %d", n)
	}
}

// Nodes and apps that die and come back under load cost no event.
func TestNothingIsLost(t *testing.T) {
	s, a := newSite(t), newApp(t)
	sc := start(t, a.config(s, `
    deliver: {concurrency: 8}
    retry: {initialInterval: 5ms, maxInterval: 50ms}
    circuitBreaker: {waitDurationInOpenState: 20ms, maxWaitDurationInOpenState: 50ms}`[1:]))
	const events = 600
	for i := range events {
		id := fmt.Sprintf("e%d", i)
		soon(t, "published "+id, func() bool {
			r, _ := post(t, sc.api+"/v1/events/orders.created", id, "Ce-Id", id, "Ce-Source", "/test", "Ce-Specversion", "1.0", "Ce-Type", "t")
			return r.StatusCode == http.StatusAccepted
		})
		switch i {
		case events / 5, 3 * events / 5:
			a.kill()
		case 2 * events / 5, 4 * events / 5:
			a.start()
			s.stop()
			s.start()
		}
	}
	distinct := func() int {
		ids := a.ids()
		slices.Sort(ids)
		return len(slices.Compact(ids))
	}
	soon(t, "all delivered", func() bool { return distinct() == events })
	if n := len(a.seen()) - events; n > 16 {
		t.Errorf("%d calls more than events, want at most two times those in flight", n)
	}
	if n := len(s.stored("orders.>")); n != events {
		t.Errorf("stored = %d, want %d", n, events)
	}
	if n := len(s.dead()); n != 0 {
		t.Errorf("dead letters = %d", n)
	}
	t.Logf("%d calls for %d events", len(a.seen()), events)
}
