// Package bridgetest is what every bridge driver has to pass, and the fakes the
// engine is tested with. A driver's test gives it a rig around the real client
// and a server in the process; nothing here needs a network beyond loopback. No
// compatibility promise.
package bridgetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/obs"
)

// patience is how long a step may take on a busy machine.
const patience = 20 * time.Second

// Keys of the events made here; order is checked within each.
var keys = []string{"a", "b", "c"}

// Events makes n events with ids 0 to n-1, spread over the keys.
func Events(n int) []event.Event {
	out := make([]event.Event, n)
	for i := range out {
		out[i] = event.Event{
			ID: strconv.Itoa(i), Source: "/test", Type: "test", Time: "2026-01-02T03:04:05Z",
			Extensions: map[string]string{event.ExtPartitionKey: keys[i%len(keys)]}, Data: []byte("data " + strconv.Itoa(i)),
		}
	}
	return out
}

// Records makes records of events, as the engine hands them to a sink.
func Records(dest string, events []event.Event) []*driver.Record {
	out := make([]*driver.Record, len(events))
	for i, e := range events {
		out[i] = &driver.Record{
			Event: e, Path: "test.created", Origin: "test", Topic: "EVENTS", Position: strconv.Itoa(i + 1), At: time.Now(),
			Dest: dest, Key: []byte(e.Extensions[event.ExtPartitionKey]),
		}
	}
	return out
}

// Deps are a driver's, with the errors it reports.
func Deps(t testing.TB) (d driver.Deps, reported func() error) {
	t.Helper()
	var mu sync.Mutex
	var last error
	d = driver.Deps{Scope: obs.Discard(), Bridge: "under-test", Site: "test", Report: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		last = err
	}}
	return d, func() error {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

// ids of events, in order.
func ids(events []event.Event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

// missing are the events that got does not hold.
func missing(want, got []event.Event) []string {
	have := map[string]bool{}
	for _, e := range got {
		have[e.ID] = true
	}
	return slices.DeleteFunc(ids(want), func(id string) bool { return have[id] })
}

// misplaced names the first event that first appears after a later one of its key.
func misplaced(got []event.Event) string {
	seen, last := map[string]bool{}, map[string]int{}
	for _, e := range got {
		n, err := strconv.Atoi(e.ID)
		if err != nil || seen[e.ID] {
			continue // a duplicate keeps the place of its first copy
		}
		seen[e.ID] = true
		key := keys[n%len(keys)]
		if before, ok := last[key]; ok && n < before {
			return fmt.Sprintf("event %d of key %s first came after event %d", n, key, before)
		}
		last[key] = n
	}
	return ""
}

// check fails the test when something is lost, or out of order if that counts.
func check(t testing.TB, want, got []event.Event, ordered bool) {
	t.Helper()
	if lost := missing(want, got); len(lost) > 0 {
		t.Errorf("lost %d of %d events, such as %v", len(lost), len(want), lost[:min(5, len(lost))])
	}
	if wrong := misplaced(got); ordered && wrong != "" {
		t.Errorf("out of order: %s", wrong)
	}
}

// SinkRig is a sink to test with the system behind it.
type SinkRig struct {
	New  func(d driver.Deps) driver.Sink
	Dest string // topic or subject to write to
	// Read returns everything the system holds, in the order in which a consumer
	// of one key sees it.
	Read func(t testing.TB) []event.Event
	// Ordered: the sink keeps the order of a key through failures.
	Ordered bool
	// FailSome makes the next write fail for some of its records, in a way that a
	// retry heals; nil if the system cannot do that.
	FailSome func()
	// LoseAnswer makes the next write take effect and yet fail; nil if the client
	// hides that from the driver.
	LoseAnswer func()
	// TooLarge is an event the system refuses for its size; the zero event if none.
	TooLarge event.Event
	// Stall makes the system answer nothing until the returned function is called.
	Stall func() (release func())
}

// Sink runs every check on a sink; each gets a rig of its own.
func Sink(t *testing.T, rig func(t *testing.T) SinkRig) {
	t.Run("stores in order", func(t *testing.T) {
		r := rig(t)
		want := Events(200)
		s := open(t, r)
		for part := range slices.Chunk(Records(r.Dest, want), 70) {
			if errs := s.Write(t.Context(), part); errs != nil {
				t.Fatalf("write: %v", errors.Join(errs...))
			}
		}
		got := r.Read(t)
		check(t, want, got, r.Ordered)
		if len(got) != len(want) {
			t.Errorf("stored %d events, want %d", len(got), len(want))
		}
	})
	t.Run("opens again", func(t *testing.T) {
		r := rig(t)
		d, _ := Deps(t)
		s := r.New(d)
		for i, e := range Events(3) {
			if err := s.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			if errs := s.Write(t.Context(), Records(r.Dest, []event.Event{e})); errs != nil {
				t.Fatalf("write %d: %v", i, errs[0])
			}
			s.Close()
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("check: %v", err)
		}
		check(t, Events(3), r.Read(t), r.Ordered)
	})
	t.Run("partial failure", func(t *testing.T) {
		r := rig(t)
		if r.FailSome == nil {
			t.Skip("the system fails a write as a whole")
		}
		sinkRetries(t, r, r.FailSome)
	})
	t.Run("lost answer", func(t *testing.T) {
		r := rig(t)
		if r.LoseAnswer == nil {
			t.Skip("the client hides lost answers")
		}
		sinkRetries(t, r, r.LoseAnswer)
	})
	t.Run("too large", func(t *testing.T) {
		r := rig(t)
		if r.TooLarge.ID == "" {
			t.Skip("no limit")
		}
		want := Events(5)
		s := open(t, r)
		errs := s.Write(t.Context(), Records(r.Dest, slices.Insert(Events(5), 2, r.TooLarge)))
		if errs == nil {
			t.Fatal("nothing failed")
		}
		for i, err := range errs {
			if reason, final := driver.Reason(err); final != (i == 2) || (final && reason != "too-large") {
				t.Errorf("record %d: error %v, final %v, reason %q", i, err, final, reason)
			}
		}
		check(t, want, r.Read(t), r.Ordered)
	})
	t.Run("gives up with its context", func(t *testing.T) { sinkStalls(t, rig(t)) })
}

func open(t testing.TB, r SinkRig) driver.Sink {
	t.Helper()
	d, _ := Deps(t)
	s := r.New(d)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// sinkRetries writes as the engine does while the first write goes wrong.
func sinkRetries(t *testing.T, r SinkRig, spoil func()) {
	want := Events(30)
	s := open(t, r)
	spoil()
	left := Records(r.Dest, want)
	failed := false
	for try := 0; len(left) > 0; try++ {
		if try == 50 {
			t.Fatalf("%d records still fail", len(left))
		}
		errs := s.Write(t.Context(), left)
		if errs == nil {
			break
		}
		var again []*driver.Record
		for i, err := range errs {
			if _, final := driver.Reason(err); final {
				t.Fatalf("record %s failed for good: %v", left[i].Event.ID, err)
			}
			if err != nil {
				failed = true
				again = append(again, left[i])
			}
		}
		left = again
	}
	if !failed {
		t.Error("the rig spoiled no write")
	}
	check(t, want, r.Read(t), r.Ordered)
}

func sinkStalls(t *testing.T, r SinkRig) {
	if r.Stall == nil {
		t.Skip("the rig cannot stall")
	}
	s := open(t, r)
	release := r.Stall()
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan []error, 1)
	go func() { done <- s.Write(ctx, Records(r.Dest, Events(3))) }()
	select {
	case errs := <-done:
		t.Fatalf("the write ended while the system stood still: %v", errs)
	case <-time.After(100 * time.Millisecond):
	}
	cancel()
	select {
	case errs := <-done:
		if len(errs) != 3 || errs[0] == nil {
			t.Errorf("errors = %v, want one for each record", errs)
		}
	case <-time.After(patience):
		t.Fatal("the write outlived its context")
	}
}
