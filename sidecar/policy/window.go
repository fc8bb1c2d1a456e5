package policy

import (
	"fmt"
	"strconv"
	"time"
)

// WindowType says what a sliding window counts.
type WindowType string

// The window types of Resilience4j.
const (
	CountBased WindowType = "COUNT_BASED"
	TimeBased  WindowType = "TIME_BASED"
)

// slots is the resolution of a time based window. Resilience4j has one slot per
// second, which is too coarse for windows of a few seconds.
const slots = 10

// Window is the sliding window of a breaker: the last Calls calls, or those of
// the last Span.
type Window struct {
	Type  WindowType
	Calls int
	Span  time.Duration
}

// ParseWindow reads a window type and a size: a number of calls for
// COUNT_BASED, a duration for TIME_BASED.
func ParseWindow(kind WindowType, size string) (Window, error) {
	w := Window{Type: kind}
	var err error
	switch kind {
	case CountBased:
		if w.Calls, err = strconv.Atoi(size); err != nil || w.Calls < 1 || w.Calls > 100_000 {
			return Window{}, fmt.Errorf("window size %q: COUNT_BASED wants a number of calls from 1 to 100000", size)
		}
	case TimeBased:
		if w.Span, err = time.ParseDuration(size); err != nil || w.Span < 100*time.Millisecond || w.Span > time.Hour {
			return Window{}, fmt.Errorf("window size %q: TIME_BASED wants a duration from 100ms to 1h", size)
		}
	default:
		return Window{}, fmt.Errorf("window type %q: want %s or %s", kind, CountBased, TimeBased)
	}
	return w, nil
}

// tally counts calls.
type tally struct{ calls, failed, slow int }

func (t tally) rate(n int) float64 {
	if t.calls == 0 {
		return 0
	}
	return 100 * float64(n) / float64(t.calls)
}

func (t *tally) add(o tally, sign int) {
	t.calls += sign * o.calls
	t.failed += sign * o.failed
	t.slow += sign * o.slow
}

// window is a ring of tallies: one per call, or one per slot of time.
type window struct {
	ring  []tally
	sum   tally
	next  int           // count based: the oldest call
	slot  time.Duration // time based: length of a slot, else zero
	start time.Time     // time based: start of slot 0
	last  int64         // time based: newest slot that has begun
}

func newWindow(w Window) window {
	if w.Type == CountBased {
		return window{ring: make([]tally, w.Calls)}
	}
	return window{ring: make([]tally, slots), slot: max(w.Span/slots, 1)}
}

func (w *window) add(now time.Time, failed, slow bool) {
	one := tally{calls: 1}
	if failed {
		one.failed = 1
	}
	if slow {
		one.slow = 1
	}
	if w.slot > 0 {
		w.advance(now)
		w.ring[w.last%slots].add(one, 1)
		w.sum.add(one, 1)
		return
	}
	w.sum.add(w.ring[w.next], -1)
	w.sum.add(one, 1)
	w.ring[w.next] = one
	w.next = (w.next + 1) % len(w.ring)
}

func (w *window) totals(now time.Time) tally {
	if w.slot > 0 {
		w.advance(now)
	}
	return w.sum
}

// advance forgets the slots that have left the window. Time does not go back.
func (w *window) advance(now time.Time) {
	if w.start.IsZero() {
		w.start = now
	}
	at := int64(now.Sub(w.start) / w.slot)
	for range min(max(at-w.last, 0), slots) {
		w.last++
		w.sum.add(w.ring[w.last%slots], -1)
		w.ring[w.last%slots] = tally{}
	}
	w.last = max(w.last, at)
}
