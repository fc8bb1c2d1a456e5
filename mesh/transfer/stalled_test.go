package transfer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/wefttest"
)

func isAcks(subject string) bool { return strings.HasPrefix(subject, "wl.a.b.ack.") }

// Something between the sites lets the question for a session through, but not
// the events or their acknowledgements, and is mended later. The importer tells
// what is missing and goes on when it comes; without the check it waits for ever
// and tells of a session that the exporter has long ended.
func TestMissingPermission(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		lose    func(subject string) bool
		problem string // what the importer tells
	}{
		{"events", isEvents, "may not send wl.b.a.>"},
		{"acknowledgements", isAcks, "must be allowed to receive wl.a.b.>"},
	}
	for _, tt := range tests {
		for _, guarded := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, guarded %t", tt.name, guarded), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				r.x = r.exporter()
				r.i = r.importer()
				if !guarded {
					r.i.Trust()
				}
				r.lose(tt.lose)
				r.link(t, r.i)
				native(t, r.bus("a"), "1", 5, 0)
				wefttest.Eventually(t, 10*time.Second, "a session", func() bool { return r.x.State().Session })
				if guarded {
					wefttest.Eventually(t, 15*time.Second, "what is missing", func() bool { return strings.Contains(r.i.State().Problem, tt.problem) })
					r.lose(nil)
					native(t, r.bus("a"), "2", 5, 0)
					r.same(t, slices.Concat(series("1", 5), series("2", 5))...)
					return
				}
				wefttest.Eventually(t, 15*time.Second, "the exporter to give up", func() bool { return !r.x.State().Session })
				r.lose(nil)
				native(t, r.bus("a"), "2", 5, 0)
				if s := r.i.State(); !s.Session || s.Problem != "" || held(t, r.bus("b")) > 5 {
					t.Errorf("%d events at b, state %+v: this test shows nothing", held(t, r.bus("b")), s)
				}
			})
		}
	}
}
