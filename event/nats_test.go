package event_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/event"
)

// message is e as a site's stream holds it.
func message(e event.Event) event.NATSMessage {
	h, data := e.NATS()
	h["Nats-Msg-Id"] = []string{e.Key()}
	return event.NATSMessage{
		Subject: "ev.iad.orders.created", Header: h, Data: data,
		Site: "fra", Stream: "EVENTS", Seq: 7, StoredAt: t0,
	}
}

func TestNATSBinding(t *testing.T) {
	h, data := full().NATS()
	want := map[string][]string{
		"ce-specversion":     {"1.0"},
		"ce-id":              {"ord%2042/%C3%BC%20%22q%22%20100%25"},
		"ce-source":          {"https://shop.example/orders?x=1#f"},
		"ce-type":            {"orders.created"},
		"ce-subject":         {"Gr%C3%B6%C3%9Fe%20%E2%82%AC5%20%F0%9F%98%80"},
		"ce-time":            {"2026-01-02T15:04:05.123456Z"},
		"ce-datacontenttype": {"application/json;%20charset=utf-8"},
		"ce-dataschema":      {"https://schemas.example/order/v1"},
		"ce-correlationid":   {"flow-7"},
		"ce-causationid":     {"cart-9"},
		"ce-traceparent":     {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		"ce-tracestate":      {"a=1,b=2"},
		"ce-partitionkey":    {"customer-%C3%A4"},
		"ce-extint":          {"-2147483648"},
		"ce-extbool":         {"true"},
		"ce-extbin":          {"AAEC/w=="},
		"ce-exturi":          {"https://a.example/b?c=d%2520e"},
		"ce-exturiref":       {"../x?y=z"},
		"ce-exttime":         {"2026-01-02T15:04:05Z"},
	}
	if d := cmp.Diff(want, h); d != "" {
		t.Errorf("headers (-want +got):\n%s", d)
	}
	if string(data) != string(full().Data) {
		t.Errorf("data = %q", data)
	}
	h["ce-id"] = append(h["ce-id"], "more")
	if h["ce-source"][0] != full().Source {
		t.Error("appending to one header's values changed another's")
	}
}

func TestFromNATSOfAWeftMessage(t *testing.T) {
	e := full()
	e.Headers = map[string][]string{"X-Tenant": {"a", "b"}}
	m := message(e)
	m.Header[event.HeaderAccepted] = []string{"1767366245000000001"}
	got := event.FromNATS(m)
	want := event.Stored{
		Event: e, Path: "orders.created", Origin: "iad", Seq: 7,
		StoredAt: t0, Accepted: time.Unix(0, 1767366245000000001),
	}
	if d := cmp.Diff(want, got, ignoring); d != "" {
		t.Errorf("stored (-want +got):\n%s", d)
	}
}

// native is a message of a NATS client that knows nothing of Weft, or gets
// CloudEvents wrong, and the event it becomes.
type native struct {
	name   string
	header map[string][]string
	data   string
	want   event.Event
}

const filledTime = "2026-01-02T15:04:05.123456Z"

// plain is the event of a native message, changed by f.
func plain(f func(e *event.Event)) event.Event {
	e := event.Event{ID: "EVENTS:7", Source: "/nats/fra", Type: "plain.subject", Time: filledTime, Data: []byte("x")}
	f(&e)
	return e
}

func TestFromNATSOfNativeMessages(t *testing.T) {
	testNative(t, []native{
		{"nothing", nil, "x", plain(func(*event.Event) {})},
		{"message id", map[string][]string{"Nats-Msg-Id": {"m1"}}, "x", plain(func(e *event.Event) { e.ID = "m1" })},
		{
			"imported from another site",
			map[string][]string{"Nats-Stream-Source": {"EVENTS:abc 42 > > plain.subject"}},
			"x", plain(func(e *event.Event) { e.ID = "EVENTS:42" }),
		},
		{"import position that is none", map[string][]string{"Nats-Stream-Source": {"a b"}}, "x", plain(func(*event.Event) {})},
		{"content type", map[string][]string{"content-type": {"text/plain"}}, "x", plain(func(e *event.Event) { e.DataContentType = "text/plain" })},
		{"content type that is none", map[string][]string{"Content-Type": {"a\tb"}}, "x", plain(func(*event.Event) {})},
		{
			"own headers, those of NATS dropped",
			map[string][]string{"X-A": {"1", "2"}, "Nats-TTL": {"1s"}, "Empty": {}},
			"x", plain(func(e *event.Event) { e.Headers = map[string][]string{"X-A": {"1", "2"}} }),
		},
		{
			"trace and correlation headers",
			map[string][]string{"Traceparent": {"00-a-b-01"}, "tracestate": {"k=v"}, "Weft-Correlation-Id": {"c"}},
			"x", plain(func(e *event.Event) {
				e.Extensions = map[string]string{"traceparent": "00-a-b-01", "tracestate": "k=v", "correlationid": "c"}
			}),
		},
		{
			"an attribute wins over the plain header",
			map[string][]string{"traceparent": {"header"}, "ce-traceparent": {"attribute"}},
			"x", plain(func(e *event.Event) { e.Extensions = map[string]string{"traceparent": "attribute"} }),
		},
		{
			"any case, the usual one first",
			map[string][]string{"CE-ID": {"A"}, "ce-id": {"b"}, "Ce-Type": {"t"}},
			"x", plain(func(e *event.Event) {
				e.ID, e.Type, e.Headers = "b", "t", map[string][]string{"CE-ID": {"A"}}
			}),
		},
	})
}

func TestFromNATSOfBrokenEvents(t *testing.T) {
	testNative(t, []native{
		{
			"names that are no attribute",
			map[string][]string{"ce-a\"b": {"1"}, "ce-": {"2"}, "ce-data": {"3"}, "ce-\u212aa": {"4"}},
			"x", plain(func(e *event.Event) {
				e.Headers = map[string][]string{"ce-a\"b": {"1"}, "ce-": {"2"}, "ce-data": {"3"}, "ce-\u212aa": {"4"}}
			}),
		},
		{
			"values that are no attribute",
			map[string][]string{
				"ce-type": {"a%0d%0ab"}, "ce-source": {"http://[::1"}, "ce-time": {"noon"}, "ce-dataschema": {"rel"},
				"Ce-Datacontenttype": {"json"}, "ce-specversion": {"0.3"}, "ce-subject": {"%ff"},
			},
			"x", plain(func(e *event.Event) {
				e.Headers = map[string][]string{
					"ce-type": {"a%0d%0ab"}, "ce-source": {"http://[::1"}, "ce-time": {"noon"}, "ce-dataschema": {"rel"},
					"Ce-Datacontenttype": {"json"}, "ce-specversion": {"0.3"}, "ce-subject": {"%ff"},
				}
			}),
		},
		{
			"structured",
			map[string][]string{"Content-Type": {"application/cloudevents+json; charset=UTF-8"}, "traceparent": {"00-a-b-01"}},
			`{"specversion":"1.0","id":"s","source":"/s","type":"t","data":[1]}`,
			event.Event{
				ID: "s", Source: "/s", Type: "t", Time: filledTime, Data: []byte("[1]"),
				Extensions: map[string]string{"traceparent": "00-a-b-01"},
			},
		},
		{
			"structured without a content type", nil, `{"specversion":"1.0","id":"s","source":"/s","type":"t"}`,
			event.Event{ID: "s", Source: "/s", Type: "t", Time: filledTime},
		},
		{
			"structured that is not valid stays data",
			map[string][]string{"Content-Type": {"application/cloudevents+json"}},
			`{"specversion":"1.0","id":"s"}`,
			event.Event{
				ID: "EVENTS:7", Source: "/nats/fra", Type: "plain.subject", Time: filledTime,
				DataContentType: "application/cloudevents+json", Data: []byte(`{"specversion":"1.0","id":"s"}`),
			},
		},
		{
			"JSON that only speaks of versions", nil, `{"specversion":"1.0"}`,
			plain(func(e *event.Event) { e.Data = []byte(`{"specversion":"1.0"}`) }),
		},
	})
}

func testNative(t *testing.T, tests []native) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := event.FromNATS(event.NATSMessage{
				Subject: "plain.subject", Header: tt.header, Data: []byte(tt.data),
				Site: "fra", Stream: "EVENTS", Seq: 7, StoredAt: t0,
			})
			diff(t, "event", got.Event, tt.want)
			if got.Origin != "fra" || got.Path != "plain.subject" || !got.Accepted.Equal(t0) {
				t.Errorf("origin %q path %q accepted %v", got.Origin, got.Path, got.Accepted)
			}
			if err := got.Validate(); err != nil {
				t.Errorf("not valid: %v", err)
			}
		})
	}
}

func TestAttributeOverridesTransportHeader(t *testing.T) {
	e := event.Event{ID: "1", Source: "/s", Type: "t", Headers: map[string][]string{
		"CE-Id": {"x"}, "ce-specversion": {"0.3"}, "ce-subject": {"kept"}, "Other": {"y"},
		"Nats-Rollup": {"all"}, "NATS-TTL": {"1s"}, // commands to the server
	}}
	h, _ := e.NATS()
	want := map[string][]string{
		"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/s"}, "ce-type": {"t"}, "ce-subject": {"kept"}, "Other": {"y"},
	}
	if d := cmp.Diff(want, h); d != "" {
		t.Errorf("headers (-want +got):\n%s", d)
	}
}

func FuzzNATSRoundTrip(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, []byte("data"))
	}
	f.Fuzz(func(t *testing.T, attrs string, data []byte) {
		e := parse(attrs, data)
		if e.Time == "" {
			e.Time = "2026-01-02T15:04:05Z" // FromNATS fills it
		}
		if e.Validate() != nil {
			return
		}
		m := message(e)
		for name, vs := range m.Header {
			for i := range len(vs[0]) {
				if c := vs[0][i]; c <= ' ' || c >= 0x7f {
					t.Errorf("header %s = %q is not visible ASCII", name, vs[0])
				}
			}
		}
		diff(t, "read back", event.FromNATS(m).Event, e)
	})
}

// FuzzFromNATS reads anything: the result is a valid event with JSON that
// parses, and it survives a second round.
func FuzzFromNATS(f *testing.F) {
	f.Add("ce-id: a%20b\nCe-Time: x\nX: y", []byte("{}"))
	f.Add("ce-id: \"q\\\"\"\nContent-Type: application/cloudevents+json", []byte("{}"))
	f.Add("Content-Type: application/cloudevents+json", []byte(`{"specversion":"1.0","id":"s","source":"/s","type":"t","n":1}`))
	f.Add("traceparent: 00\nNats-Msg-Id: x\nNats-Stream-Source: EVENTS:x 42 >\nce-datacontenttype: a", []byte{0xff})
	f.Add("ce-a\"b: c\nWeft-Correlation-Id: \x01\nce-specversion: 0.3", []byte("null"))
	f.Fuzz(func(t *testing.T, headers string, data []byte) {
		h := map[string][]string{}
		for line := range strings.Lines(headers) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			if name != event.HeaderAccepted {
				h[name] = append(h[name], value)
			}
		}
		m := event.NATSMessage{Subject: "ev.iad.a", Header: h, Data: data, Site: "fra", Stream: "EVENTS", Seq: 1, StoredAt: t0}
		s := event.FromNATS(m)
		if len(headers) < event.MaxAttribute && len(data) <= event.MaxAttribute {
			if err := s.Validate(); err != nil {
				t.Fatalf("not valid: %v", err)
			}
		}
		if b := s.AppendJSON(nil); !json.Valid(b) {
			t.Fatalf("no JSON: %s", b)
		}
		h2, d2 := s.NATS()
		m.Header, m.Data = h2, d2
		again := event.FromNATS(m)
		s.Headers, again.Headers = nil, nil // a ce- header that was no attribute gives way to the filled one
		diff(t, "second round", again.Event, s.Event)
	})
}
