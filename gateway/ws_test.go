package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"weft.dev/weft/gateway"
	"weft.dev/weft/internal/conf"
)

func TestStarts(t *testing.T) {
	m := newMemory()
	for range 5 {
		m.put("orders.created", "a")
		m.put("stock.low", "b")
	}
	addr := start(t, m)
	tests := []struct {
		name  string
		start any
		want  []string // positions before live
	}{
		{"live", map[string]any{"live": true}, nil},
		{"none is live", nil, nil},
		{"all", map[string]any{"all": true}, []string{"1:1", "1:3", "1:5", "1:7", "1:9"}},
		{"after", map[string]any{"after": cursor("e1", 5)}, []string{"1:7", "1:9"}},
		{"after the newest", map[string]any{"after": cursor("e1", 10)}, nil},
		{"last", map[string]any{"last": 2}, []string{"1:7", "1:9"}},
		{"last of fewer", map[string]any{"last": 100}, []string{"1:1", "1:3", "1:5", "1:7", "1:9"}},
		{"seq", map[string]any{"seq": 7}, []string{"1:7", "1:9"}},
		{"ago", map[string]any{"ago": "1h"}, []string{"1:1", "1:3", "1:5", "1:7", "1:9"}},
		{"time", map[string]any{"time": "2100-01-01T00:00:00Z"}, nil},
	}
	for _, caps := range [][]string{nil, {"evs"}} {
		for _, tt := range tests {
			t.Run(tt.name+strings.Join(caps, ""), func(t *testing.T) {
				c := dial(t, addr, caps...)
				s := c.sub(map[string]any{"subject": "orders.*", "start": tt.start})
				if s.S == 0 || s.Streams["1"] != "EVENTS@e1" || s.ID != "a" {
					t.Errorf("subbed %+v", s)
				}
				var got []string
				f := c.next()
				for ; f.T == "ev" || f.T == "evs"; f = c.next() {
					got = append(got, positions(t, f, s.S)...)
				}
				if f.T != "live" || f.S != s.S || f.P != "1:10" {
					t.Errorf("after the events: %+v", f)
				}
				if strings.Join(got, " ") != strings.Join(tt.want, " ") {
					t.Errorf("positions %v, want %v", got, tt.want)
				}
			})
		}
	}
}

// positions are those of an ev or evs frame of the feed.
func positions(t *testing.T, f frame, feed uint64) []string {
	t.Helper()
	if f.S != feed {
		t.Errorf("frame of feed %d, want %d", f.S, feed)
	}
	if f.T == "ev" {
		return []string{f.P}
	}
	out := make([]string, len(f.B))
	for i, item := range f.B {
		if err := json.Unmarshal(item[0], &out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestSocketLifecycle(t *testing.T) {
	m := newMemory()
	addr := start(t, m)
	c := dial(t, addr)
	orders := c.sub(map[string]any{"subject": "orders.>", "filter": map[string]any{"exact": map[string]any{"type": "created"}}})
	c.want("live")
	all := c.sub(map[string]any{"id": "b", "subject": ">"})
	c.want("live")
	m.put("orders.eu.created", "created")
	got := map[uint64]string{}
	for range 2 {
		f := c.want("ev")
		got[f.S] = f.E.Type
	}
	if got[orders.S] != "created" || got[all.S] != "created" {
		t.Errorf("events %v", got)
	}
	c.send(map[string]any{"t": "unsub", "s": all.S})
	if f := c.want("unsubd"); f.S != all.S {
		t.Errorf("unsubd %+v", f)
	}
	m.put("orders.eu.created", "other") // only the feed that is gone would send it
	c.send(map[string]any{"t": "pub", "id": "p", "subject": "orders.x", "e": map[string]any{
		"specversion": "1.0", "id": "77", "source": "/browser", "type": "created", "data": map[string]any{"n": 1},
	}})
	var ok, ev bool
	for range 2 {
		switch f := c.next(); f.T {
		case "ok":
			ok = f.ID == "p" && f.P == "1:3" && f.Event == "77"
		case "ev":
			ev = f.S == orders.S && f.E.ID == "77" && string(f.E.Data) == `{"n":1}`
		}
	}
	if !ok || !ev {
		t.Errorf("published: ok %v, delivered %v", ok, ev)
	}
}

func TestSocketErrors(t *testing.T) {
	m := newMemory()
	addr := start(t, m, func(c *gateway.Config, _ *gateway.Deps) { c.MaxSubscriptions = 2 })
	tests := []struct{ name, give, code, msg string }{
		{"no t", `{}`, "bad_request", "t: want"},
		{"unknown type", `{"t":"frobnicate"}`, "bad_request", `not "frobnicate"`},
		{"hello again", `{"t":"hello","v":1}`, "bad_request", "hello only once"},
		{"wrong type of a member", `{"t":"sub","id":"x","subject":7}`, "bad_request", "subject: want a string"},
		{"no id", `{"t":"sub","subject":"a"}`, "bad_request", "id: want"},
		{"no subject", `{"t":"sub","id":"x"}`, "bad_request", "subject: want"},
		{"bad pattern", `{"t":"sub","id":"x","subject":"a..b"}`, "bad_request", ""},
		{"> in the middle", `{"t":"sub","id":"x","subject":"a.>.b"}`, "bad_request", ""},
		{"bad filter", `{"t":"sub","id":"x","subject":"a","filter":{"regex":{}}}`, "bad_request", "filter.regex: want"},
		{"bad filter value", `{"t":"sub","id":"x","subject":"a","filter":{"exact":{"type":7}}}`, "bad_request", "filter.exact.type: want"},
		{"bad cursor", `{"t":"sub","id":"x","subject":"a","start":{"after":"7"}}`, "bad_request", "cursor: want"},
		{"cursor of another stream", `{"t":"sub","id":"x","subject":"a","start":{"after":"OTHER@e:1"}}`, "bad_request", "start.after: want"},
		{"unknown start", `{"t":"sub","id":"x","subject":"a","start":{"soon":true}}`, "bad_request", "start: want one of"},
		{"two starts", `{"t":"sub","id":"x","subject":"a","start":{"all":true,"live":true}}`, "bad_request", "start: want"},
		{"bad last", `{"t":"sub","id":"x","subject":"a","start":{"last":0}}`, "bad_request", "start.last: want"},
		{"bad time", `{"t":"sub","id":"x","subject":"a","start":{"time":"now"}}`, "bad_request", "start.time: want"},
		{"bad ago", `{"t":"sub","id":"x","subject":"a","start":{"ago":"-1s"}}`, "bad_request", "start.ago: want"},
		{"ack mode", `{"t":"sub","id":"x","subject":"a","ack":"cum"}`, "unsupported", "ack: want none"},
		{"onSlow", `{"t":"sub","id":"x","subject":"a","onSlow":"drop"}`, "unsupported", "onSlow"},
		{"unsub of nothing", `{"t":"unsub","s":99}`, "not_found", "s: want"},
		{"pub without event", `{"t":"pub","id":"x","subject":"a"}`, "bad_request", "e: want"},
		{"pub of no event", `{"t":"pub","id":"x","subject":"a","e":{}}`, "bad_request", "specversion"},
		{"pub on a pattern", `{"t":"pub","id":"x","subject":"a.*","e":{"specversion":"1.0"}}`, "bad_request", "subject"},
		{"pub when unavailable", `{"t":"pub","id":"x","subject":"a","e":{"specversion":"1.0","id":"unavailable"}}`, "unavailable", "try again"},
	}
	c := dial(t, addr)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c.t = t
			c.text(tt.give)
			f := c.want("err")
			if f.Code != tt.code || !strings.Contains(f.Msg, tt.msg) || f.Msg == "" {
				t.Errorf("err %+v", f)
			}
			if strings.Contains(tt.give, `"id":"x"`) && f.ID != "x" && tt.name != "wrong type of a member" {
				t.Errorf("id %q", f.ID)
			}
			if f.Retry != (tt.code == "unavailable") || f.Retry && f.After == 0 {
				t.Errorf("retry %v after %d", f.Retry, f.After)
			}
		})
	}
	c.t = t
	c.sub(map[string]any{"subject": "a"}) // the socket still works
	c.want("live")
	c.text(`{"t":"sub","id":"y","subject":"a"}`)
	if f := c.want("err"); f.Code != "bad_request" || !strings.Contains(f.Msg, "subscribed already") {
		t.Errorf("the same subject twice: %+v", f)
	}
	c.sub(map[string]any{"id": "b", "subject": "b"})
	c.want("live")
	c.text(`{"t":"sub","id":"y","subject":"c"}`)
	if f := c.want("err"); f.Code != "too_many" {
		t.Errorf("over the limit: %+v", f)
	}
}

func TestSocketCloses(t *testing.T) {
	addr := start(t, newMemory(), func(c *gateway.Config, _ *gateway.Deps) { c.MaxFrame = conf.Size(2 << 10) })
	const hello = `{"t":"hello","v":1}`
	tests := []struct {
		name   string
		frames []string
		binary bool
		code   int
		reason string
	}{
		{"no JSON at first", []string{"hi"}, false, 4500, "JSON object"},
		{"no JSON later", []string{hello, "{"}, false, 4500, "JSON object"},
		{"no object", []string{hello, "[1]"}, false, 4500, "JSON object"},
		{"binary", []string{hello}, true, 4500, "text frame"},
		{"another first", []string{`{"t":"sub"}`}, false, 4504, "hello"},
		{"wrong version", []string{`{"t":"hello","v":2}`}, false, 4505, "v 1"},
		{"version of a wrong type", []string{`{"t":"hello","v":"1"}`}, false, 4505, "v 1"},
		{"oversized", []string{hello, `{"t":"` + strings.Repeat("x", 3000) + `"}`}, false, websocket.CloseMessageTooBig, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := connect(t, addr, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range tt.frames {
				c.text(f)
			}
			if tt.binary {
				if err := c.WriteMessage(websocket.BinaryMessage, []byte("{}")); err != nil {
					t.Fatal(err)
				}
			}
			if code, reason := c.closed(); code != tt.code || !strings.Contains(reason, tt.reason) {
				t.Errorf("closed %d %q", code, reason)
			}
		})
	}
}

func TestHelloTimeout(t *testing.T) {
	t.Parallel() // it takes the five seconds
	c, _, err := connect(t, start(t, newMemory()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := c.closed(); code != 4504 {
		t.Errorf("closed with %d", code)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	addr := start(t, newMemory(), func(c *gateway.Config, _ *gateway.Deps) {
		c.Origins = []string{"https://shop.example"}
		c.MaxConnections = 1
	})
	upgrade := func(h ...string) http.Header {
		out := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
		for i := 0; i < len(h); i += 2 {
			out.Set(h[i], h[i+1])
		}
		return out
	}
	tests := []struct {
		name   string
		header http.Header
		status int
		field  string
	}{
		{"no upgrade", http.Header{}, 426, "Upgrade"},
		{"no subprotocol", upgrade(), 400, "Sec-WebSocket-Protocol"},
		{"another subprotocol", upgrade("Sec-WebSocket-Protocol", "graphql-ws"), 400, "Sec-WebSocket-Protocol"},
		{"foreign origin", upgrade("Sec-WebSocket-Protocol", gateway.Subprotocol, "Origin", "https://evil.example"), 403, "Origin"},
		{"no key", upgrade("Sec-WebSocket-Protocol", gateway.Subprotocol, "Sec-WebSocket-Key", ""), 400, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/ws", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = tt.header
			wantProblem(t, do(t, req), tt.status, tt.field)
		})
	}
	for _, origin := range []string{"https://shop.example", "http://" + addr} {
		c := eventually(t, addr, http.Header{"Origin": {origin}})
		if _, resp, err := connect(t, addr, nil); err == nil || resp == nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" {
			t.Errorf("a second connection: %v", err)
		}
		_ = c.Close()
	}
}

// eventually connects once the server has noticed that the connection before is
// gone.
func eventually(t *testing.T, addr string, header http.Header) *client {
	t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(2 * time.Millisecond) {
		c, resp, err := connect(t, addr, header)
		if err == nil {
			return c
		}
		if time.Now().After(deadline) || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatal(err)
		}
	}
}

func do(t *testing.T, req *http.Request) *http.Response {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// wantProblem checks a problem answer.
func wantProblem(t *testing.T, resp *http.Response, status int, field string) {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Type, Title, Detail, Field string
		Status                     int
	}
	if err := json.Unmarshal(body, &p); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%d %s as %s: %v", resp.StatusCode, body, resp.Header.Get("Content-Type"), err)
	}
	if resp.StatusCode != status || p.Status != status || p.Field != field || p.Title == "" || p.Detail == "" {
		t.Errorf("answer %d %s, want %d for %q", resp.StatusCode, body, status, field)
	}
}
