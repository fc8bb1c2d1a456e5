package gateway_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"weft.dev/weft/gateway"
)

// routes is what openapi.json must describe, and nothing else.
var routes = []string{
	"POST /v1/events/{subject}", "GET /v1/events", "GET /v1/ws", "GET /openapi.json", "GET /asyncapi.json",
}

func fetch(t *testing.T, addr, path string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(do(t, req).Body).Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestOpenAPI(t *testing.T) {
	addr := start(t, newMemory())
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name, In string }
			Responses  map[string]any
		}
	}
	fetch(t, addr, "/openapi.json", &doc)
	var got []string
	for path, methods := range doc.Paths {
		for method, op := range methods {
			method = strings.ToUpper(method)
			got = append(got, method+" "+path)
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+strings.ReplaceAll(path, "{subject}", "a"), nil)
			if err != nil {
				t.Fatal(err)
			}
			status := do(t, req).Status[:3]
			if _, ok := op.Responses[status]; !ok {
				t.Errorf("%s %s answers %s, which is not described", method, path, status)
			}
		}
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(routes)); !slices.Equal(got, want) {
		t.Errorf("described %v, want %v", got, want)
	}
}

// schema is as much of JSON Schema as asyncapi.json needs here.
type schema struct {
	Required   []string
	Properties map[string]struct {
		Enum  []string
		Const any
	}
}

type asyncAPI struct {
	Operations map[string]struct {
		Messages []struct {
			Ref string `json:"$ref"`
		}
	}
	Components struct {
		Messages map[string]struct {
			Payload  schema
			Examples []struct{ Payload map[string]any }
		}
	}
}

func (a asyncAPI) names(op string) []string {
	var out []string
	for _, m := range a.Operations[op].Messages {
		out = append(out, m.Ref[strings.LastIndexByte(m.Ref, '/')+1:])
	}
	slices.Sort(out)
	return out
}

// check compares a frame with the message's schema.
func (a asyncAPI) check(t *testing.T, f map[string]any) string {
	t.Helper()
	name, _ := f["t"].(string)
	m, ok := a.Components.Messages[name]
	if !ok {
		t.Fatalf("frame %v is not described", f)
	}
	for _, key := range m.Payload.Required {
		if _, ok := f[key]; !ok {
			t.Errorf("%s: %v lacks %s", name, f, key)
		}
	}
	for key, value := range f {
		p, ok := m.Payload.Properties[key]
		text, _ := value.(string)
		if !ok || p.Const != nil && p.Const != value || p.Enum != nil && !slices.Contains(p.Enum, text) {
			t.Errorf("%s: %s = %v is not described", name, key, value)
		}
	}
	return name
}

// TestAsyncAPI holds a conversation with every message and compares each frame
// with its description; every example of a client's message is understood.
func TestAsyncAPI(t *testing.T) {
	m := newMemory()
	addr := start(t, m, func(c *gateway.Config, _ *gateway.Deps) { c.Tail.Events = 16 })
	var doc asyncAPI
	fetch(t, addr, "/asyncapi.json", &doc)
	for range 4 {
		m.put("orders.eu.shipped", "order.shipped")
	}
	listen(t, addr, "subject=>&start=last:1", "").event()
	m.purgeAll(1)
	c, _, err := connect(t, addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{"hb": true}
	read := func(until string) map[string]any {
		for {
			_, data, err := c.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			var f map[string]any
			if err := json.Unmarshal(data, &f); err != nil {
				t.Fatal(err)
			}
			name := doc.check(t, f)
			seen[name] = true
			if name == until {
				return f
			}
		}
	}
	example := func(name string) map[string]any {
		f := maps.Clone(doc.Components.Messages[name].Examples[0].Payload)
		doc.check(t, f)
		return f
	}
	c.send(example("hello"))
	read("welcome")
	c.send(example("rx"))
	c.send(example("hb"))
	c.send(example("sub"))
	read("live")
	c.send(map[string]any{"t": "sub", "id": "g", "subject": "orders.eu.*", "start": map[string]any{"after": cursor("e1", 0)}})
	f := read("live")
	c.send(map[string]any{"t": "unsub", "s": f["s"]})
	read("unsubd")
	c.send(example("pub"))
	read("ok")
	c.send(example("unsub"))
	read("err")
	m.put("orders.eu.shipped", "order.shipped")
	c.send(map[string]any{"t": "sub", "id": "e", "subject": "orders.eu.shipped"})
	read("live")
	m.put("orders.eu.shipped", "x")
	read("ev")
	if got, want := slices.Sorted(maps.Keys(seen)), doc.names("toClient"); !slices.Equal(got, want) {
		t.Errorf("seen %v, described %v", got, want)
	}
	if got := doc.names("fromClient"); !slices.Equal(got, []string{"hb", "hello", "pub", "rx", "sub", "unsub"}) {
		t.Errorf("messages of clients: %v", got)
	}
}

// TestProtocolPage: docs/protocol.md names every message, error code and close
// code.
func TestProtocolPage(t *testing.T) {
	page, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	var doc asyncAPI
	fetch(t, start(t, newMemory()), "/asyncapi.json", &doc)
	words := []string{"4000", "4008", "4009", "4500", "4504", "4505", "1009", gateway.Subprotocol}
	for name, m := range doc.Components.Messages {
		words = append(words, name)
		words = append(words, m.Payload.Properties["code"].Enum...)
		words = append(words, m.Payload.Properties["why"].Enum...)
	}
	for _, w := range words {
		if !strings.Contains(string(page), "`"+w+"`") {
			t.Errorf("docs/protocol.md does not name `%s`", w)
		}
	}
}
