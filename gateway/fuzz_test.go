package gateway

import (
	"testing"
	"time"

	"weft.dev/weft/event"
)

// FuzzMessage feeds frames to everything that reads them before an event or a
// position is looked up. It is inside the package because a socket per input
// would be too slow.
func FuzzMessage(f *testing.F) {
	for _, s := range []string{
		`{"t":"hello","v":1,"caps":["evs"]}`,
		`{"t":"sub","id":"a","subject":"orders.*","filter":[{"not":{"prefix":{"type":"x"}}}],"start":{"after":"EVENTS@e:1/2"}}`,
		`{"t":"sub","id":"a","subject":">","start":{"ago":"1h"},"filter":null}`,
		`{"t":"pub","id":"b","subject":"a","e":{"specversion":"1.0","data":{}}}`,
		`{"t":"rx","p":"1:7","ms":1e300}`, `[]`, `null`, `{"s":-1}`, `{"start":{"last":1e9}}`,
	} {
		f.Add([]byte(s))
	}
	now := time.Unix(1767225600, 0)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, end, err := parse(data)
		if end != nil || err != nil {
			if end != nil && end.code != closeBad {
				t.Fatalf("closes with %d", end.code)
			}
			return
		}
		r, err := m.request(now)
		if err != nil {
			if fl := failureOf(m.ID, err); fl.code != "bad_request" || fl.msg == "" {
				t.Fatalf("%+v for %v", fl, err)
			}
			return
		}
		if event.CheckPattern(r.pattern) != nil {
			t.Fatalf("takes the pattern %q", r.pattern)
		}
		if r.start.kind == startAfter && r.start.cursor.Stream != streamName {
			t.Fatalf("takes the cursor %v", r.start.cursor)
		}
	})
}

// FuzzStart: the query form of a start never panics and agrees with its JSON
// form on the words both have.
func FuzzStart(f *testing.F) {
	for _, s := range []string{"live", "all", "last:50", "after:EVENTS@e:1", "time:2026-01-02T15:04:05Z", "ago:15m", "seq:1", ":", "last:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		st, err := parseStartText(s, time.Unix(0, 0))
		if err == nil && st.kind == startLast && (st.last < 1 || st.last > maxLast) {
			t.Fatalf("takes last %d", st.last)
		}
	})
}
