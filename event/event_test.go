package event_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/event"
)

func asField(err error) (*event.FieldError, bool) { return errors.AsType[*event.FieldError](err) }

func TestValidateNamesTheField(t *testing.T) {
	tests := []struct {
		name  string
		give  func(e *event.Event)
		field string
		kind  error
	}{
		{"valid", func(*event.Event) {}, "", nil},
		{"no id", func(e *event.Event) { e.ID = "" }, "id", nil},
		{"no source", func(e *event.Event) { e.Source = "" }, "source", nil},
		{"no type", func(e *event.Event) { e.Type = "" }, "type", nil},
		{"source is no URI reference", func(e *event.Event) { e.Source = "http://[::1" }, "source", nil},
		{"time is none", func(e *event.Event) { e.Time = "yesterday" }, "time", nil},
		{"time without zone", func(e *event.Event) { e.Time = "2026-01-02T15:04:05" }, "time", nil},
		{"schema is relative", func(e *event.Event) { e.DataSchema = "/a" }, "dataschema", nil},
		{"no media type", func(e *event.Event) { e.DataContentType = "json" }, "datacontenttype", nil},
		{"broken media type", func(e *event.Event) { e.DataContentType = "text/plain; x" }, "datacontenttype", nil},
		{"control character", func(e *event.Event) { e.ID = "a\nb" }, "id", nil},
		{"C1 control character", func(e *event.Event) { e.ID = "a\u0085b" }, "id", nil},
		{"noncharacter", func(e *event.Event) { e.ID = "a\ufffeb" }, "id", nil},
		{"noncharacter of an upper plane", func(e *event.Event) { e.ID = "a\U0001ffffb" }, "id", nil},
		{"broken UTF-8", func(e *event.Event) { e.Subject = "\xff" }, "subject", nil},
		{"upper-case extension", func(e *event.Event) { e.SetExtension("Foo", "x") }, "Foo", nil},
		{"extension with a dash", func(e *event.Event) { e.SetExtension("a-b", "x") }, "a-b", nil},
		{"extension without a name", func(e *event.Event) { e.SetExtension("", "x") }, "extension", nil},
		{"data at the limit", func(e *event.Event) { e.Data = make([]byte, event.MaxData) }, "", nil},
		{"data over the limit", func(e *event.Event) { e.Data = make([]byte, event.MaxData+1) }, "data", event.ErrTooLarge},
		{"attribute over the limit", func(e *event.Event) { e.ID = strings.Repeat("x", event.MaxAttribute+1) }, "id", event.ErrTooLarge},
		{"headers over the limit", func(e *event.Event) {
			e.Headers = map[string][]string{"X": {strings.Repeat("x", event.MaxHeaders)}}
		}, "headers", event.ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := full()
			tt.give(&e)
			err := e.Validate()
			if tt.field == "" {
				if err != nil {
					t.Errorf("err = %v, want none", err)
				}
				return
			}
			wantField(t, err, tt.field)
			if !errors.Is(err, event.ErrRejected) || tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("err = %v, want rejected and %v", err, tt.kind)
			}
		})
	}
}

func TestFillKeepsWhatTheProducerSet(t *testing.T) {
	d := event.Defaults{Subject: "orders.created", Source: "/weft/fra", Now: t0}
	e := full()
	e.Fill(d)
	diff(t, "filled", e, full())

	var empty event.Event
	empty.Fill(d)
	if empty.Type != d.Subject || empty.Source != d.Source || empty.Time != "2026-01-02T15:04:05.123456Z" || len(empty.ID) != 36 {
		t.Errorf("filled = %+v", empty)
	}
	if err := empty.Validate(); err != nil {
		t.Errorf("a filled event is not valid: %v", err)
	}
}

func TestNewIDIsAVersion7UUIDInOrderOfTime(t *testing.T) {
	a, b := event.NewID(t0), event.NewID(t0.Add(time.Millisecond))
	if a >= b || a[14] != '7' || !strings.ContainsRune("89ab", rune(a[19])) {
		t.Errorf("ids %s, %s: want version 7, variant 10, ordered", a, b)
	}
	if event.NewID(t0) == a {
		t.Error("two ids of one time are equal")
	}
}

func TestKeyIsUnambiguous(t *testing.T) {
	give := []event.Event{
		{Source: "/a", ID: "b/c"},
		{Source: "/a/b", ID: "c"},
		{Source: "/a", ID: "b%2Fc"},
		{Source: "/a%2Fb", ID: "c"},
		{Source: "/a", ID: "b%252Fc"},
		{Source: "/a", ID: "b c"},
		{Source: "/a", ID: "b%20c"},
		{Source: "/a", ID: " b"},
		{Source: "/a", ID: "b"},
	}
	seen := map[string]event.Event{}
	for _, e := range give {
		k := e.Key()
		if other, ok := seen[k]; ok {
			t.Errorf("%q is the key of %q %q and of %q %q", k, e.Source, e.ID, other.Source, other.ID)
		}
		seen[k] = e
	}
	if got := (event.Event{Source: "/weft/fra", ID: "42"}).Key(); got != "/weft/fra/42" {
		t.Errorf("key = %q, want source/id", got)
	}
}

func FuzzKey(f *testing.F) {
	f.Add("/a", "b/c", "/a/b", "c")
	f.Add("/a", "b%2Fc", "/a", "b/c")
	f.Fuzz(func(t *testing.T, s1, i1, s2, i2 string) {
		a, b := event.Event{Source: s1, ID: i1}.Key(), event.Event{Source: s2, ID: i2}.Key()
		if (a == b) != (s1 == s2 && i1 == i2) {
			t.Errorf("keys %q and %q of %q %q and %q %q", a, b, s1, i1, s2, i2)
		}
		for i := range len(a) {
			if a[i] <= ' ' || a[i] >= 0x7f {
				t.Fatalf("key %q is no header value of visible ASCII", a)
			}
		}
	})
}

func TestTimestamp(t *testing.T) {
	tests := []struct {
		give string
		want time.Time
		ok   bool
	}{
		{"", time.Time{}, true},
		{"2026-01-02T15:04:05.123456Z", t0, true},
		{"2026-01-02T16:04:05.123456+01:00", t0, true},
		{"2026-01-02", time.Time{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			got, err := event.Event{Time: tt.give}.Timestamp()
			if !got.Equal(tt.want) || (err == nil) != tt.ok {
				t.Errorf("got %v, %v; want %v, ok %v", got, err, tt.want, tt.ok)
			}
		})
	}
}

func TestCorrelate(t *testing.T) {
	cause := event.Cause{ID: "c1", CorrelationID: "flow", Depth: 2}
	tests := []struct {
		name        string
		own         map[string]string
		cause       event.Cause
		key, trace  string
		correlation string
		causation   string
		depth       int
	}{
		{"nothing known", nil, event.Cause{}, "", "", "", "", 0},
		{"producer's own wins", map[string]string{"correlationid": "own"}, cause, "key", "trace", "own", "c1", 3},
		{"then the cause's", nil, cause, "key", "trace", "flow", "c1", 3},
		{"then the business key", nil, event.Cause{ID: "c1"}, "key", "trace", "key", "c1", 1},
		{"then the trace id", nil, event.Cause{}, "", "trace", "trace", "", 0},
		{"own causation and depth stay", map[string]string{"causationid": "x", "weftdepth": "9"}, cause, "", "", "flow", "x", 9},
		{"a depth that is no number counts as 0", map[string]string{"weftdepth": "-3"}, event.Cause{}, "", "", "", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := event.Event{Extensions: tt.own}
			e.Correlate(tt.cause, tt.key, tt.trace)
			if e.CorrelationID() != tt.correlation || e.CausationID() != tt.causation || e.Depth() != tt.depth {
				t.Errorf("correlation %q causation %q depth %d, want %q %q %d",
					e.CorrelationID(), e.CausationID(), e.Depth(), tt.correlation, tt.causation, tt.depth)
			}
		})
	}
	e := event.Event{ID: "e1", Extensions: map[string]string{"correlationid": "flow", "weftdepth": "4", "weftpath": "b1,b2"}}
	if got, want := event.CauseOf(e), (event.Cause{ID: "e1", CorrelationID: "flow", Depth: 4}); got != want {
		t.Errorf("CauseOf = %+v, want %+v", got, want)
	}
	if p := e.Path(); len(p) != 2 || p[0] != "b1" || p[1] != "b2" {
		t.Errorf("path = %v, want b1 b2", p)
	}
	if p := (event.Event{}).Path(); p != nil {
		t.Errorf("path of nothing = %v", p)
	}
}

func TestSetExtensionOfNothingRemoves(t *testing.T) {
	e := full()
	e.SetExtension("correlationid", "")
	if _, ok := e.Extensions["correlationid"]; ok {
		t.Error("the extension is still there")
	}
	if got := event.Reject("f", "w").Error(); got != "f: want w" {
		t.Errorf("error text = %q", got)
	}
	if !errors.Is(event.TooLarge("f", "w", 3), event.ErrTooLarge) {
		t.Error("TooLarge is not ErrTooLarge")
	}
}
