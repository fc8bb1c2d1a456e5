package event_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"weft.dev/weft/event"
)

func TestJSONFormat(t *testing.T) {
	e := full()
	want := `{"specversion":"1.0","id":"ord 42/ü \"q\" 100%","source":"https://shop.example/orders?x=1#f","type":"orders.created",` +
		`"subject":"Größe €5 😀","time":"2026-01-02T15:04:05.123456Z","datacontenttype":"application/json; charset=utf-8",` +
		`"dataschema":"https://schemas.example/order/v1","causationid":"cart-9","correlationid":"flow-7","extbin":"AAEC/w==",` +
		`"extbool":"true","extint":"-2147483648","exttime":"2026-01-02T15:04:05Z","exturi":"https://a.example/b?c=d%20e",` +
		`"exturiref":"../x?y=z","partitionkey":"customer-ä","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",` +
		`"tracestate":"a=1,b=2","data":{"id":"ord-42","total":12.50,"note":"<grün> & 'ok'"}}`
	if got := string(e.AppendJSON(nil)); got != want {
		t.Errorf("JSON = %s\nwant   %s", got, want)
	}
	var back event.Event
	if err := json.Unmarshal([]byte(want), &back); err != nil {
		t.Fatal(err)
	}
	diff(t, "read back", back, e)
}

// TestDataInJSON: which member carries the data, and what reads back.
func TestDataInJSON(t *testing.T) {
	tests := []struct {
		name, contentType, data string
		member                  string // how it stands in the JSON; empty: not at all
		back                    string
	}{
		{"JSON", "application/json", `{"a": 1}`, `"data":{"a": 1}`, `{"a": 1}`},
		{"JSON by suffix", "application/x+json", `[1]`, `"data":[1]`, `[1]`},
		{"no type means JSON", "", `"s"`, `"data":"s"`, `"s"`},
		{"JSON over lines is compacted", "application/json", "{\n \"a\": 1\r\n}", `"data":{"a":1}`, `{"a":1}`},
		{"JSON null is data", "application/json", ` null`, `"data_base64":"IG51bGw="`, ` null`},
		{"not JSON after all", "application/json", `{`, `"data_base64":"ew=="`, `{`},
		{"broken UTF-8 in JSON", "application/json", "\"\xff\"", `"data_base64":"Iv8i"`, "\"\xff\""},
		{"text", "text/plain", "a\"b\n<ü>", `"data":"a\"b\n\u003cü\u003e"`, "a\"b\n<ü>"},
		{"XML", "application/xml", "<a/>", `"data":"\u003ca/\u003e"`, "<a/>"},
		{"text that is no UTF-8", "text/plain", "\xff", `"data_base64":"/w=="`, "\xff"},
		{"binary", "image/png", "\x89PNG", `"data_base64":"iVBORw=="`, "\x89PNG"},
		{"JSON text of a binary type", "application/octet-stream", `{"a":1}`, `"data_base64":"eyJhIjoxfQ=="`, `{"a":1}`},
		{"empty", "text/plain", "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := event.Event{ID: "1", Source: "/s", Type: "t", DataContentType: tt.contentType, Data: []byte(tt.data)}
			b := e.AppendJSON(nil)
			var members map[string]json.RawMessage
			if err := json.Unmarshal(b, &members); err != nil {
				t.Fatal(err)
			}
			member := ""
			for _, name := range []string{"data", "data_base64"} {
				if raw, ok := members[name]; ok {
					member += `"` + name + `":` + string(raw)
				}
			}
			if member != tt.member {
				t.Errorf("member = %s, want %s", member, tt.member)
			}
			var back event.Event
			if err := back.UnmarshalJSON(b); err != nil {
				t.Fatal(err)
			}
			if string(back.Data) != tt.back {
				t.Errorf("read back %q, want %q", back.Data, tt.back)
			}
		})
	}
}

func TestUnmarshalJSON(t *testing.T) {
	const head = `{"specversion":"1.0","id":"1","source":"/s","type":"t"`
	tests := []struct {
		name, give string
		field      string // of the error; empty: none
		ext, data  string // extension "x" and the data
	}{
		{"only what is required", head + `}`, "", "", ""},
		{"integer", head + `,"x":-5}`, "", "-5", ""},
		{"boolean", head + `,"x":true}`, "", "true", ""},
		{"null is absent", head + `,"x":null,"data":null}`, "", "", ""},
		{"escapes", head + `,"x":"\u00fc\ud83d\ude00"}`, "", "ü😀", ""},
		{"text data", head + `,"datacontenttype":"text/plain","data":"a\nb"}`, "", "", "a\nb"},
		{"object of a text type stays JSON", head + `,"datacontenttype":"text/plain","data":{"a":1}}`, "", "", `{"a":1}`},
		{"base64", head + `,"data_base64":"AP8="}`, "", "", "\x00\xff"},
		{"an event without id is filled later", `{"specversion":"1.0","x":"y"}`, "", "y", ""},
		{"no JSON", `{`, "body", "", ""},
		{"array", `[]`, "body", "", ""},
		{"null", `null`, "body", "", ""},
		{"more than one", head + `}{}`, "body", "", ""},
		{"no specversion", `{"id":"1"}`, "specversion", "", ""},
		{"null specversion", `{"specversion":null}`, "specversion", "", ""},
		{"old specversion", `{"specversion":"0.3"}`, "specversion", "", ""},
		{"number as specversion", `{"specversion":1.0}`, "specversion", "", ""},
		{"number as id", `{"specversion":"1.0","id":5}`, "id", "", ""},
		{"fraction", head + `,"x":1.5}`, "x", "", ""},
		{"exponent", head + `,"x":1e3}`, "x", "", ""},
		{"object as extension", head + `,"x":{}}`, "x", "", ""},
		{"name in upper case", head + `,"X":"y"}`, "X", "", ""},
		{"name with a quote", head + `,"a\"b":"y"}`, `a"b`, "", ""},
		{"both kinds of data", head + `,"data":1,"data_base64":"AA=="}`, "data_base64", "", ""},
		{"broken base64", head + `,"data_base64":"*"}`, "data_base64", "", ""},
		{"base64 that is no string", head + `,"data_base64":5}`, "data_base64", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e event.Event
			err := e.UnmarshalJSON([]byte(tt.give))
			if tt.field != "" {
				wantField(t, err, tt.field)
				if !errors.Is(err, event.ErrRejected) {
					t.Errorf("%v is not ErrRejected", err)
				}
				return
			}
			if err != nil || e.Extensions["x"] != tt.ext || string(e.Data) != tt.data {
				t.Errorf("x %q, data %q, err %v; want %q, %q", e.Extensions["x"], e.Data, err, tt.ext, tt.data)
			}
		})
	}
}

func TestMarshalBatch(t *testing.T) {
	if got := string(event.MarshalBatch(nil)); got != "[]" {
		t.Errorf("empty batch = %s", got)
	}
	b := event.MarshalBatch([]event.Event{full(), full()})
	var back []event.Event
	if err := json.Unmarshal(b, &back); err != nil || len(back) != 2 {
		t.Fatalf("%d events, %v", len(back), err)
	}
	diff(t, "second", back[1], full())
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "a", `"\`, "\x00\x1f\b\f\n\r\t\x7f", "ü😀\u2028\u2029\ufffd", "\xff\xc3", "<>&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, _ := json.Marshal(s)
		if got := event.AppendString(nil, s); string(got) != string(want) {
			t.Errorf("%q = %s, want %s as encoding/json writes it", s, got, want)
		}
	})
}

func FuzzJSONRoundTrip(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, []byte(`{"a":1}`))
		f.Add(s, []byte("\xff\n"))
	}
	f.Fuzz(func(t *testing.T, attrs string, data []byte) {
		e := parse(attrs, data)
		b := e.AppendJSON(nil)
		if !json.Valid(b) || !utf8.Valid(b) || strings.ContainsAny(string(b), "\r\n") {
			t.Fatalf("not one line of JSON in UTF-8: %q", b)
		}
		if e.Validate() != nil {
			return
		}
		var back event.Event
		if err := back.UnmarshalJSON(b); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if string(back.Data) != string(e.Data) && sameJSON(back.Data, e.Data) {
			back.Data = e.Data // space around or between tokens is not kept
		}
		diff(t, "read back", back, e)
	})
}

// FuzzMembers compares the walk over an object with encoding/json.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(` { "a" : 1 , "b":[{"c":"]}\""},null],"\u0061":{"x":-1e3}, "t":true } `))
	f.Fuzz(func(t *testing.T, b []byte) {
		var want map[string]json.RawMessage
		if json.Unmarshal(b, &want) != nil || want == nil {
			return
		}
		got := event.Members(b)
		if len(got) != len(want) {
			t.Fatalf("%d members, want %d: %s", len(got), len(want), b)
		}
		for name, raw := range want {
			if got[name] != string(raw) {
				t.Errorf("%q = %s, want %s", name, got[name], raw)
			}
		}
	})
}

func FuzzUnmarshalJSON(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","x":1,"data":{"a":[1,null]}}`))
	f.Add([]byte(`{"specversion":"1.0","data_base64":"AA==","datacontenttype":"text/plain"}`))
	f.Add([]byte(`[{"specversion":"1.0"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, _, _ := event.FromHTTP(map[string][]string{"Content-Type": {event.MediaBatch}}, b)
		for _, e := range events {
			_ = e.Validate()
		}
		var e event.Event
		if err := e.UnmarshalJSON(b); err != nil {
			if _, ok := asField(err); !ok {
				t.Fatalf("%v is no field error", err)
			}
			return
		}
		var again event.Event
		if err := again.UnmarshalJSON(e.AppendJSON(nil)); err != nil {
			t.Fatalf("%s: %v", e.AppendJSON(nil), err)
		}
		if string(again.Data) != string(e.Data) && sameJSON(again.Data, e.Data) {
			again.Data = e.Data
		}
		diff(t, "second round", again, e)
	})
}
