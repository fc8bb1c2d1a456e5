package event_test

import (
	"math"
	"testing"
	"time"

	"weft.dev/weft/event"
)

func TestCursorText(t *testing.T) {
	tests := []struct {
		text string
		want event.Cursor
		ok   bool
	}{
		{"EVENTS@k3x:42", event.Cursor{Stream: "EVENTS", Epoch: "k3x", Seq: 42}, true},
		{"EVENTS@k3x:0", event.Cursor{Stream: "EVENTS", Epoch: "k3x"}, true},
		{"E_1-a@b:18446744073709551615", event.Cursor{Stream: "E_1-a", Epoch: "b", Seq: math.MaxUint64}, true},
		{"EVENTS@k3x:42/1767366245123", event.Cursor{Stream: "EVENTS", Epoch: "k3x", Seq: 42, Time: time.UnixMilli(1767366245123)}, true},
		{"", event.Cursor{}, false},
		{"42", event.Cursor{}, false},
		{"EVENTS:42", event.Cursor{}, false},
		{"@k:42", event.Cursor{}, false},
		{"EVENTS@:42", event.Cursor{}, false},
		{"EVENTS@k", event.Cursor{}, false},
		{"EVENTS@k:", event.Cursor{}, false},
		{"EVENTS@k:-1", event.Cursor{}, false},
		{"EVENTS@k:18446744073709551616", event.Cursor{}, false},
		{"EVENTS@k:1/", event.Cursor{}, false},
		{"EVENTS@k:1/-1", event.Cursor{}, false},
		{"EVENTS@k:1/x", event.Cursor{}, false},
		{"EV ENTS@k:1", event.Cursor{}, false},
		{"EVENTS@k\n:1", event.Cursor{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := event.ParseCursor(tt.text)
			if !tt.ok {
				wantField(t, err, "cursor")
				return
			}
			if err != nil || got != tt.want {
				t.Fatalf("got %+v, %v; want %+v", got, err, tt.want)
			}
			if got.String() != tt.text {
				t.Errorf("String = %q, want %q", got.String(), tt.text)
			}
		})
	}
}

func FuzzCursor(f *testing.F) {
	for _, s := range []string{"EVENTS@k3x:42", "EVENTS@k3x:42/1767366245123", "@:/", "E@k:1/-5", "E@k:+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := event.ParseCursor(s)
		if err != nil {
			return
		}
		again, err := event.ParseCursor(c.String())
		if err != nil || again != c {
			t.Errorf("%q gives %+v, whose text %q gives %+v, %v", s, c, c.String(), again, err)
		}
	})
}
