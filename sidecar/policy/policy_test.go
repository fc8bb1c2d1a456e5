package policy_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/event"
	"weft.dev/weft/sidecar/policy"
)

func TestParseRate(t *testing.T) {
	tests := []struct {
		give string
		want policy.Rate
		bad  bool
	}{
		{give: "500/s", want: policy.Rate{Count: 500, Per: time.Second}},
		{give: "1000/m", want: policy.Rate{Count: 1000, Per: time.Minute}},
		{give: "10/h", want: policy.Rate{Count: 10, Per: time.Hour}},
		{give: "", bad: true},
		{give: "500", bad: true},
		{give: "0/s", bad: true},
		{give: "-1/s", bad: true},
		{give: "1.5/s", bad: true},
		{give: "5/d", bad: true},
		{give: "99999999/s", bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			got, err := policy.ParseRate(tt.give)
			if (err != nil) != tt.bad || got != tt.want {
				t.Errorf("ParseRate = %v, %v", got, err)
			}
			if text, _ := got.MarshalText(); !tt.bad && string(text) != tt.give {
				t.Errorf("MarshalText = %s", text)
			}
		})
	}
}

func TestParseWindow(t *testing.T) {
	tests := []struct {
		kind policy.WindowType
		size string
		want policy.Window
		bad  bool
	}{
		{kind: policy.CountBased, size: "100", want: policy.Window{Type: policy.CountBased, Calls: 100}},
		{kind: policy.TimeBased, size: "10s", want: policy.Window{Type: policy.TimeBased, Span: 10 * time.Second}},
		{kind: policy.CountBased, size: "10s", bad: true},
		{kind: policy.TimeBased, size: "100", bad: true},
		{kind: policy.TimeBased, size: "1ms", bad: true},
		{kind: "SLIDING", size: "100", bad: true},
	}
	for _, tt := range tests {
		got, err := policy.ParseWindow(tt.kind, tt.size)
		if (err != nil) != tt.bad || got != tt.want {
			t.Errorf("ParseWindow(%s, %s) = %v, %v", tt.kind, tt.size, got, err)
		}
	}
}

func traceID(n uint64) (id policy.TraceID) { binary.BigEndian.PutUint64(id[8:], n); return id }
func spanID(n uint64) (id policy.SpanID)   { binary.BigEndian.PutUint64(id[:], n); return id }

func TestCauses(t *testing.T) {
	a := event.Cause{ID: "a", CorrelationID: "flow", Depth: 1}
	b := event.Cause{ID: "b", CorrelationID: "flow", Depth: 2}
	other := event.Cause{ID: "c", CorrelationID: "else"}
	tests := []struct {
		name  string
		begin func(*policy.Causes)
		span  uint64
		after time.Duration
		want  event.Cause
	}{
		{"the call's own span", func(c *policy.Causes) {
			c.Begin(t0, traceID(1), spanID(1), a)
			c.Begin(t0, traceID(1), spanID(2), b)
		}, 2, 0, b},
		{"a child span, one call in the trace", func(c *policy.Causes) {
			c.Begin(t0, traceID(1), spanID(1), a)
			c.Begin(t0, traceID(2), spanID(2), other)
			c.End(spanID(1))
		}, 9, 0, a},
		{"a child span, one call under way", func(c *policy.Causes) {
			c.Begin(t0, traceID(1), spanID(1), a)
			c.End(spanID(1))
			c.Begin(t0, traceID(1), spanID(2), b)
		}, 9, 0, b},
		{"a child span, two calls under way: no guess", func(c *policy.Causes) {
			c.Begin(t0, traceID(1), spanID(1), a)
			c.Begin(t0, traceID(1), spanID(2), b)
		}, 9, 0, event.Cause{CorrelationID: "flow"}},
		{"a child span, the same event called with twice", func(c *policy.Causes) {
			c.Begin(t0, traceID(1), spanID(1), a)
			c.Begin(t0, traceID(1), spanID(2), a)
		}, 9, 0, a},
		{"two flows in one trace: nothing", func(c *policy.Causes) {
			c.Begin(t0, traceID(1), spanID(1), a)
			c.Begin(t0, traceID(1), spanID(2), other)
		}, 9, 0, event.Cause{}},
		{"another trace", func(c *policy.Causes) { c.Begin(t0, traceID(2), spanID(1), a) }, 1, 0, event.Cause{}},
		{"too old", func(c *policy.Causes) { c.Begin(t0, traceID(1), spanID(1), a) }, 1, time.Minute, event.Cause{}},
		{"pushed out", func(c *policy.Causes) {
			for n := range uint64(5) {
				c.Begin(t0, traceID(1), spanID(n), a)
			}
			c.Begin(t0, traceID(3), spanID(7), a)
			c.Begin(t0, traceID(3), spanID(8), a)
			c.Begin(t0, traceID(3), spanID(9), a)
		}, 1, 0, event.Cause{ID: "a", CorrelationID: "flow", Depth: 1}}, // span 4 of trace 1 is left
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := policy.NewCauses(4, time.Minute)
			tt.begin(c)
			got, _ := c.Find(t0.Add(tt.after), traceID(1), spanID(tt.span))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("cause differs (-want +got):\n%s", diff)
			}
			if c.Len() > 4 {
				t.Errorf("remembered = %d, want at most 4", c.Len())
			}
		})
	}
}

func TestStateText(t *testing.T) {
	for _, s := range []policy.State{policy.Closed, policy.HalfOpen, policy.Open} {
		text, _ := s.MarshalText()
		var back policy.State
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("%s read back as %v, %v", text, back, err)
		}
	}
	var s policy.State
	if err := s.UnmarshalText([]byte("open")); err == nil {
		t.Error("lower case was taken")
	}
}
