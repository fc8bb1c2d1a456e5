package sidecar_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/sidecar"
)

// reason is what a sidecar says of its one subscription.
func (r *running) reason(t *testing.T) string {
	t.Helper()
	_, text := get(t, r.admin+"/readyz")
	var out struct {
		Subscriptions []sidecar.SubscriptionPresence
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil || len(out.Subscriptions) != 1 {
		t.Fatalf("readyz = %s, %v", text, err)
	}
	return out.Subscriptions[0].Reason
}

// An operator sees why events wait, and that they no longer do.
func TestReasonOfAPause(t *testing.T) {
	s, a := newSite(t), newApp(t)
	a.kill()
	s.publish("orders.created", "one")
	sc := start(t, a.config(s, "    circuitBreaker: {waitDurationInOpenState: 50ms, minimumNumberOfCalls: 1}"))
	soon(t, "the app is down", func() bool { return strings.Contains(sc.reason(t), "connection refused") })
	a.status(http.StatusServiceUnavailable)
	a.start()
	soon(t, "the app fails", func() bool { return sc.reason(t) == "the app answered 503 Service Unavailable" })
	a.answers(nil)
	soon(t, "all is well", func() bool { return sc.reason(t) == "" && s.pending(durable) == 0 })
}

func TestReasonOfAConsumerThatCannotBeUsed(t *testing.T) {
	s, a := newSite(t), newApp(t)
	_, err := s.bus.JetStream().CreateOrUpdatePushConsumer(t.Context(), bus.Stream, jetstream.ConsumerConfig{
		Durable: durable, DeliverSubject: "somewhere.else", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	sc := start(t, a.config(s, ""))
	soon(t, "a reason", func() bool { return strings.Contains(sc.reason(t), "consumer") })
	if err := s.bus.JetStream().DeleteConsumer(t.Context(), bus.Stream, durable); err != nil {
		t.Fatal(err)
	}
	s.publish("orders.created", "one")
	soon(t, "delivered", func() bool { return len(a.seen()) == 1 && sc.reason(t) == "" })
}

// Garbage in an answer must not cost the spans of everybody.
func TestGarbageDoesNotSpoilSpans(t *testing.T) {
	s, a := newSite(t), newApp(t)
	posts := make(chan string, 100)
	sub, err := s.bus.Conn().Subscribe(sidecar.SpanSubject, func(m *nats.Msg) {
		var data tracepb.TracesData
		if err := proto.Unmarshal(m.Data, &data); err != nil {
			t.Error(err)
		}
		for _, rs := range data.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, span := range ss.Spans {
					if span.Name == "POST" {
						posts <- span.Status.GetMessage()
					}
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	a.answers(func(w http.ResponseWriter, c call) {
		switch c.header.Get("Weft-Attempt") {
		case "1":
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte("\xff\xfe"))
		case "2":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 500 \xff" + strings.Repeat("x", 8<<10) + "\r\nContent-Length: 0\r\n\r\n"))
			_ = conn.Close()
		}
	})
	s.publish("orders.created", "one")
	start(t, a.config(s, ""))
	for n := range 3 {
		if got := <-posts; len(got) > 2<<10 || (got == "") != (n == 2) {
			t.Errorf("status of call %d: %.60q of %d bytes", n+1, got, len(got))
		}
	}
}
