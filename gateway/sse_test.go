package gateway_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway"
)

// message is one message of an event stream.
type message struct{ ID, Event, Data string }

// source reads an event stream.
type source struct {
	t *testing.T
	r *bufio.Reader
}

// listen opens an event stream; a test's end closes it.
func listen(t *testing.T, addr, query, lastID string) *source {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp := do(t, req)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("answer %d, header %v", resp.StatusCode, resp.Header)
	}
	return &source{t, bufio.NewReader(resp.Body)}
}

// next is the next message with data.
func (s *source) next() message {
	s.t.Helper()
	var m message
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			s.t.Fatalf("read: %v", err)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			m.ID = value
		case "event":
			m.Event = value
		case "data":
			m.Data = value
		case "":
			if m.Data != "" {
				return m
			}
		}
	}
}

// event is the next message, which must be an event.
func (s *source) event() (event.Event, string) {
	s.t.Helper()
	m := s.next()
	var e event.Event
	if err := json.Unmarshal([]byte(m.Data), &e); err != nil || m.Event != "" {
		s.t.Fatalf("message %+v: %v", m, err)
	}
	return e, m.ID
}

// control is the next message, which must be one of Weft's own.
func (s *source) control(typ string) (frame, string) {
	s.t.Helper()
	m := s.next()
	var f frame
	if err := json.Unmarshal([]byte(m.Data), &f); err != nil || m.Event != "weft" || f.T != typ {
		s.t.Fatalf("message %+v, want %s: %v", m, typ, err)
	}
	return f, m.ID
}

func TestEventStream(t *testing.T) {
	m := newMemory()
	addr := start(t, m)
	m.put("orders.created", "a")
	m.put("stock.low", "b")
	s := listen(t, addr, "subject=orders.*&start=all", "")
	_, first := s.event()
	if c, err := event.ParseCursor(first); err != nil || c.Seq != 1 || c.Epoch != "e1" || c.Time.IsZero() {
		t.Errorf("id %q: %v", first, err)
	}
	if f, id := s.control("live"); f.P != "1:2" || id != cursor("e1", 2) {
		t.Errorf("live %+v, id %s", f, id)
	}
	m.put("stock.low", "c")
	m.put("orders.paid", "d")
	e, second := s.event()
	if e.Type != "d" || string(e.Data) != `{"a":1}` {
		t.Errorf("event %+v", e)
	}
	m.put("orders.sent", "e")
	s.event() // the reader has had it, so those that follow get it before they are live

	resumed := listen(t, addr, "subject=orders.*&start=all", second) // the header wins
	if e, _ := resumed.event(); e.Type != "e" {
		t.Errorf("resumed with %+v", e)
	}
	resumed.control("live")

	filter := url.QueryEscape(`{"any":[{"exact":{"type":"a"}},{"suffix":{"type":"e"}}]}`)
	filtered := listen(t, addr, "subject=>&start=last:2&filter="+filter, "")
	if e, _ := filtered.event(); e.Type != "a" {
		t.Errorf("filtered begins with %+v", e)
	}
	if e, _ := filtered.event(); e.Type != "e" {
		t.Errorf("filtered goes on with %+v", e)
	}
	filtered.control("live")
}

func TestGaps(t *testing.T) {
	m := newMemory()
	addr := start(t, m, func(c *gateway.Config, _ *gateway.Deps) { c.Tail.Events = 16 })
	for range 10 {
		m.put("a", "x")
	}
	listen(t, addr, "subject=a&start=last:1", "").event() // the reader has had everything
	if got := m.purgeAll(6); got != 6 {
		t.Fatalf("purged to %d", got)
	}
	t.Run("retention", func(t *testing.T) {
		s := listen(t, addr, "subject=a", cursor("e1", 2))
		f, id := s.control("gap")
		if f.From != "1:3" || f.To != "1:6" || f.Why != "retention" || id != cursor("e1", 6) {
			t.Errorf("gap %+v, id %s", f, id)
		}
		if _, id := s.event(); !strings.HasPrefix(id, cursor("e1", 7)) {
			t.Errorf("goes on at %s", id)
		}
	})
	t.Run("fail", func(t *testing.T) {
		c := dial(t, addr)
		c.send(map[string]any{"t": "sub", "id": "a", "subject": "a", "onGap": "fail", "start": map[string]any{"after": cursor("e1", 2)}})
		if f := c.want("err"); f.Code != "gone" {
			t.Errorf("err %+v", f)
		}
	})
	t.Run("epoch with a time that is kept", func(t *testing.T) {
		s := listen(t, addr, "subject=a", "EVENTS@other:900/4102444800000")
		if f, _ := s.control("live"); f.P != "1:10" {
			t.Errorf("live %+v", f)
		}
	})
	for _, id := range []string{"EVENTS@other:900", "EVENTS@other:900/1000", cursor("e1", 900)} {
		t.Run("epoch "+id, func(t *testing.T) {
			s := listen(t, addr, "subject=a", id)
			if f, _ := s.control("gap"); f.From != "1:901" || f.To != "" || f.Why != "epoch" {
				t.Errorf("gap %+v", f)
			}
			if _, id := s.event(); !strings.HasPrefix(id, cursor("e1", 7)) {
				t.Errorf("goes on at %s", id)
			}
		})
	}
	t.Run("made anew", func(t *testing.T) {
		s := listen(t, addr, "subject=a", "")
		s.control("live")
		m.renew()
		m.put("a", "new")
		if f, _ := s.control("gap"); f.Why != "epoch" {
			t.Errorf("gap %+v", f)
		}
		if e, id := s.event(); e.Type != "new" || !strings.HasPrefix(id, cursor("e1x", 1)) {
			t.Errorf("%+v at %s", e, id)
		}
	})
}

func TestEventStreamRefusals(t *testing.T) {
	addr := start(t, newMemory())
	tests := []struct{ name, query, lastID, field string }{
		{"no subject", "", "", "subject"},
		{"two subjects", "subject=a&subject=b", "", "subject"},
		{"bad subject", "subject=a..b", "", "subject"},
		{"bad filter", "subject=a&filter=%7B", "", "filter"},
		{"unknown dialect", "subject=a&filter=%7B%22sql%22%3A%22x%22%7D", "", "filter.sql"},
		{"bad start", "subject=a&start=soon", "", "start"},
		{"bad last", "subject=a&start=last:x", "", "start.last"},
		{"bad cursor", "subject=a&start=after:x", "", "cursor"},
		{"bad Last-Event-ID", "subject=a", "x", "Last-Event-ID"},
		{"bad query", "subject=%zz", "", "query"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/events?"+tt.query, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.lastID != "" {
				req.Header.Set("Last-Event-ID", tt.lastID)
			}
			wantProblem(t, do(t, req), 400, tt.field)
		})
	}
}

func TestRequestRefusals(t *testing.T) {
	addr := start(t, newMemory())
	tests := []struct {
		name, method, path, body string
		header                   []string
		status                   int
		field                    string
	}{
		{"malformed event", "POST", "/v1/events/a", "{", []string{"Content-Type", event.MediaJSON}, 400, "body"},
		{"event without an id's source", "POST", "/v1/events/a", `{"specversion":"1.0","source":7}`, []string{"Content-Type", event.MediaJSON}, 400, "source"},
		{"oversized", "POST", "/v1/events/a", strings.Repeat("x", event.MaxData+1), nil, 413, "data"},
		{"wrong content type", "POST", "/v1/events/a", "x", []string{"Content-Type", "application/cloudevents+avro"}, 415, "Content-Type"},
		{"invalid subject", "POST", "/v1/events/a%20b", "x", nil, 400, "subject"},
		{"unavailable", "POST", "/v1/events/a", "x", []string{"ce-id", "unavailable"}, 503, ""},
		{"foreign origin", "POST", "/v1/events/a", "x", []string{"Origin", "https://evil.example"}, 403, "Origin"},
		{"wrong method", "PUT", "/v1/events/a", "x", nil, 405, ""},
		{"no subject", "POST", "/v1/events", "x", nil, 405, ""},
		{"no such path", "GET", "/v2", "", nil, 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+addr+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(tt.header); i += 2 {
				req.Header.Set(tt.header[i], tt.header[i+1])
			}
			wantProblem(t, do(t, req), tt.status, tt.field)
		})
	}
}

func TestOriginsAllowed(t *testing.T) {
	addr := start(t, newMemory(), func(c *gateway.Config, _ *gateway.Deps) { c.Origins = []string{"https://shop.example"} })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, "http://"+addr+"/v1/events/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://shop.example")
	req.Header.Set("Access-Control-Request-Method", "POST")
	req.Header.Set("Access-Control-Request-Headers", "content-type")
	resp := do(t, req)
	if h := resp.Header; resp.StatusCode != 204 || h.Get("Access-Control-Allow-Origin") != "https://shop.example" || h.Get("Access-Control-Allow-Headers") != "content-type" {
		t.Errorf("preflight: %d %v", resp.StatusCode, h)
	}
}

// TestDrain: a stopping gateway tells sockets when to come back, ends event
// streams and returns.
func TestDrain(t *testing.T) {
	addr, stop := startStop(t, newMemory())
	s := listen(t, addr, "subject=a", "")
	s.control("live")
	c := dial(t, addr)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	if code, reason := c.closed(); code != 4000 || !strings.HasPrefix(reason, "after=") {
		t.Errorf("closed %d %q", code, reason)
	}
	if _, err := io.ReadAll(s.r); err != nil {
		t.Errorf("the event stream is cut: %v", err)
	}
	<-stopped
}
