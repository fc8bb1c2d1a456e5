package obs_test

import (
	"testing"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/obs"
)

func traced(tp string) event.Event {
	return event.Event{Extensions: map[string]string{event.ExtTraceparent: tp}}
}

func TestSampled(t *testing.T) {
	const head = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	tests := []struct {
		give string
		want bool
	}{
		{head + "01", true},
		{head + "00", false},
		{head + "03", true},
		{head + "02", false},
		{"", false},
		{head, false},
		{head + "0", false},
		{head + "0g", false},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			e := traced(tt.give)
			if got := obs.Sampled(e); got != tt.want {
				t.Errorf("Sampled = %v, want %v", got, tt.want)
			}
			if n := testing.AllocsPerRun(10, func() { obs.Sampled(e) }); n != 0 {
				t.Errorf("%v allocations, want 0", n)
			}
		})
	}
}

// FuzzSampled: the cheap look at the flag agrees with the parser wherever the
// parser takes the value.
func FuzzSampled(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-more")
	f.Add("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0F")
	f.Fuzz(func(t *testing.T, tp string) {
		e := traced(tp)
		if sc := obs.Creation(e); sc.IsValid() && sc.IsSampled() != obs.Sampled(e) {
			t.Errorf("Sampled(%q) = %v, the parser says %v", tp, obs.Sampled(e), sc.IsSampled())
		}
	})
}
