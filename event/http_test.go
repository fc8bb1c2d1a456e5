package event_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/event"
)

func TestHTTPBinding(t *testing.T) {
	h, data := full().HTTP()
	want := map[string][]string{
		"Ce-Specversion":   {"1.0"},
		"Ce-Id":            {"ord%2042/%C3%BC%20%22q%22%20100%25"},
		"Ce-Source":        {"https://shop.example/orders?x=1#f"},
		"Ce-Type":          {"orders.created"},
		"Ce-Subject":       {"Gr%C3%B6%C3%9Fe%20%E2%82%AC5%20%F0%9F%98%80"},
		"Ce-Time":          {"2026-01-02T15:04:05.123456Z"},
		"Content-Type":     {"application/json; charset=utf-8"},
		"Ce-Dataschema":    {"https://schemas.example/order/v1"},
		"Ce-Correlationid": {"flow-7"},
		"Ce-Causationid":   {"cart-9"},
		"Ce-Traceparent":   {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		"Ce-Tracestate":    {"a=1,b=2"},
		"Ce-Partitionkey":  {"customer-%C3%A4"},
		"Ce-Extint":        {"-2147483648"},
		"Ce-Extbool":       {"true"},
		"Ce-Extbin":        {"AAEC/w=="},
		"Ce-Exturi":        {"https://a.example/b?c=d%2520e"},
		"Ce-Exturiref":     {"../x?y=z"},
		"Ce-Exttime":       {"2026-01-02T15:04:05Z"},
	}
	if d := cmp.Diff(want, h); d != "" {
		t.Errorf("headers (-want +got):\n%s", d)
	}
	for name := range h {
		if name != http.CanonicalHeaderKey(name) {
			t.Errorf("%s is not canonical", name)
		}
	}
	back, mode, err := event.FromHTTP(h, data)
	if err != nil || mode != event.Binary || len(back) != 1 {
		t.Fatalf("%d events, mode %v, %v", len(back), mode, err)
	}
	diff(t, "read back", back[0], full())
}

func TestFromHTTPForms(t *testing.T) {
	const one = `{"specversion":"1.0","id":"1","source":"/s","type":"t"}`
	tests := []struct {
		name   string
		header map[string][]string
		body   string
		mode   event.Mode
		n      int
		field  string
		kind   error
	}{
		{"raw", map[string][]string{"Content-Type": {"text/plain"}}, "x", event.Raw, 1, "", nil},
		{"raw without a type", nil, "x", event.Raw, 1, "", nil},
		{"binary", map[string][]string{"Ce-Id": {"1"}}, "x", event.Binary, 1, "", nil},
		{"structured", map[string][]string{"Content-Type": {event.MediaJSON}}, one, event.Structured, 1, "", nil},
		{"structured in any case with parameters", map[string][]string{"Content-Type": {"Application/CloudEvents+JSON ; charset=utf-8"}}, one, event.Structured, 1, "", nil},
		{"structured wins over ce- headers", map[string][]string{"Content-Type": {event.MediaJSON}, "Ce-Id": {"2"}}, one, event.Structured, 1, "", nil},
		{"batch", map[string][]string{"Content-Type": {event.MediaBatch}}, "[" + one + "," + one + "]", event.Batched, 2, "", nil},
		{"another format", map[string][]string{"Content-Type": {"application/cloudevents+avro"}}, "", event.Raw, 0, "Content-Type", event.ErrUnsupported},
		{"another batch format", map[string][]string{"Content-Type": {"application/cloudevents-batch+avro"}}, "", event.Raw, 0, "Content-Type", event.ErrUnsupported},
		{"no format", map[string][]string{"Content-Type": {"application/cloudevents"}}, "", event.Raw, 0, "Content-Type", event.ErrUnsupported},
		{"old specversion", map[string][]string{"Ce-Specversion": {"0.3"}}, "", event.Binary, 0, "specversion", nil},
		{"no attribute name", map[string][]string{"Ce-My-Ext": {"x"}}, "", event.Binary, 0, "my-ext", nil},
		{"attribute called data", map[string][]string{"Ce-Data": {"x"}}, "", event.Binary, 0, "data", nil},
		{"structured is no JSON", map[string][]string{"Content-Type": {event.MediaJSON}}, "{", event.Structured, 0, "body", nil},
		{"batch is no array", map[string][]string{"Content-Type": {event.MediaBatch}}, one, event.Batched, 0, "body", nil},
		{"empty batch", map[string][]string{"Content-Type": {event.MediaBatch}}, "[]", event.Batched, 0, "body", nil},
		{"broken item", map[string][]string{"Content-Type": {event.MediaBatch}}, "[" + one + `,{"specversion":"1.0","id":7}]`, event.Batched, 0, "[1].id", nil},
		{
			"too many items",
			map[string][]string{"Content-Type": {event.MediaBatch}},
			"[" + strings.Repeat(one+",", event.MaxBatch) + one + "]", event.Batched, 0, "body", event.ErrTooLarge,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events, mode, err := event.FromHTTP(tt.header, []byte(tt.body))
			if mode != tt.mode {
				t.Errorf("mode = %v, want %v", mode, tt.mode)
			}
			if tt.field != "" {
				wantField(t, err, tt.field)
				if tt.kind != nil && !errors.Is(err, tt.kind) {
					t.Errorf("err = %v, want %v", err, tt.kind)
				}
				return
			}
			if err != nil || len(events) != tt.n {
				t.Errorf("%d events, %v; want %d", len(events), err, tt.n)
			}
		})
	}
}

func TestFromHTTPAttributes(t *testing.T) {
	tests := []struct {
		name, give, want string // Ce-Subject as sent, subject as read
	}{
		{"plain", "a", "a"},
		{"percent", "a%20%c3%bc%25", "a ü%"},
		{"one round only", "%2541", "%41"},
		{"stray percent", "100%", "100%"},
		{"percent without digits", "%zz%4", "%zz%4"},
		{"quoted string", `"a \"b\" \\ %20"`, `a "b" \  `},
		{"lone quote", `"`, `"`},
		{"raw UTF-8 of lenient senders", "ü", "ü"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events, _, err := event.FromHTTP(map[string][]string{"Ce-Subject": {tt.give}}, nil)
			if err != nil || events[0].Subject != tt.want {
				t.Errorf("subject = %q, %v; want %q", events[0].Subject, err, tt.want)
			}
		})
	}
	events, _, _ := event.FromHTTP(map[string][]string{
		"Content-Type": {"text/plain"}, "Ce-Datacontenttype": {"text/html"}, "Ce-Id": {""},
	}, nil)
	if e := events[0]; e.DataContentType != "text/plain" || e.ID != "" {
		t.Errorf("event = %+v, want Content-Type to win over Ce-Datacontenttype", e)
	}
}

func FuzzPercent(f *testing.F) {
	for _, s := range []string{"", "a b", `"x"`, "100%", "%41", "ü\x00\xff", `\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		enc := event.PercentEncode(s)
		if dec := event.PercentDecode(enc); dec != s {
			t.Errorf("%q encodes to %q, decodes to %q", s, enc, dec)
		}
		for i := range len(enc) {
			if enc[i] <= ' ' || enc[i] >= 0x7f || enc[i] == '"' {
				t.Fatalf("%q encodes to %q", s, enc)
			}
		}
		_ = event.PercentDecode(s)
	})
}

func FuzzHTTPRoundTrip(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, []byte("data"))
	}
	f.Fuzz(func(t *testing.T, attrs string, data []byte) {
		e := parse(attrs, data)
		if e.Validate() != nil {
			return
		}
		h, body := e.HTTP()
		back, mode, err := event.FromHTTP(h, body)
		if mode == event.Structured || mode == event.Batched || errors.Is(err, event.ErrUnsupported) {
			return // the event's own data is a CloudEvent: binary mode cannot say so
		}
		if err != nil {
			t.Fatal(err)
		}
		diff(t, "read back", back[0], e)
	})
}

// FuzzHTTPHeaders reads any header block, through net/http.
func FuzzHTTPHeaders(f *testing.F) {
	f.Add("Ce-Id: a%20b\r\nce-type: \"x\"\r\nContent-Type: text/plain", "body")
	f.Add("Ce-A-B: x\r\nCe-Time: noon\r\nContent-Type: Application/Cloudevents+json", "{}")
	f.Fuzz(func(t *testing.T, headers, body string) {
		raw := fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", headers)
		if strings.Contains(headers, "\r\n\r\n") || strings.Contains(strings.ToLower(headers), "host") {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		events, _, err := event.FromHTTP(r.Header, []byte(body))
		if err != nil {
			if _, ok := asField(err); !ok {
				t.Fatalf("%v is no field error", err)
			}
			return
		}
		for _, e := range events {
			e.Fill(event.Defaults{Subject: "t", Source: "/x", Now: t0})
			if e.Validate() != nil {
				continue
			}
			diff(t, "through NATS", event.FromNATS(message(e)).Event, e)
			h, _ := e.HTTP()
			for name, vs := range h {
				if strings.ContainsAny(vs[0], "\r\n") {
					t.Errorf("header %s = %q", name, vs[0])
				}
			}
		}
	})
}
