package bridgetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
)

// SourceRig is a source to test with the system behind it.
type SourceRig struct {
	New func(d driver.Deps) driver.Source
	// Put adds events to the system, in order within a key.
	Put func(t testing.TB, events []event.Event)
	// Ordered: the source keeps the order of a key, also when events come again.
	Ordered bool
	// Return makes the system hand out what a crashed reader held; nil if it does
	// that by itself at once.
	Return func()
}

// Source runs every check on a source; each gets a rig of its own.
func Source(t *testing.T, rig func(t *testing.T) SourceRig) {
	t.Run("emits in order", func(t *testing.T) {
		r := rig(t)
		want := Events(200)
		r.Put(t, want)
		got := read(t, r, len(want), nil)
		check(t, want, got, r.Ordered)
		if len(got) != len(want) {
			t.Errorf("emitted %d events, want %d", len(got), len(want))
		}
	})
	t.Run("forgets what is done", func(t *testing.T) {
		r := rig(t)
		all := Events(60)
		r.Put(t, all[:40])
		first := read(t, r, 40, nil)
		r.Put(t, all[40:])
		second := read(t, r, 20, nil)
		check(t, all, append(first, second...), r.Ordered)
		if len(second) != 20 {
			t.Errorf("after a clean stop %d events came, want 20", len(second))
		}
	})
	t.Run("crash after the write", func(t *testing.T) {
		r := rig(t)
		want := Events(60)
		r.Put(t, want)
		read(t, r, 1, func(int) error { return errCrash }) // stored, but never settled
		if r.Return != nil {
			r.Return()
		}
		check(t, want, read(t, r, len(want), nil), r.Ordered)
	})
	t.Run("crash in the middle", func(t *testing.T) {
		r := rig(t)
		want := Events(200)
		r.Put(t, want[:100])
		first := read(t, r, 100, func(n int) error {
			if n > 30 {
				return errCrash
			}
			return nil
		})
		if r.Return != nil {
			r.Return()
		}
		r.Put(t, want[100:])
		// What came in the first run was stored, so only the rest must come now.
		all := first
		for range 5 {
			if len(missing(want, all)) == 0 {
				break
			}
			all = append(all, read(t, r, len(missing(want, all)), nil)...)
		}
		check(t, want, all, false)
	})
	t.Run("waits for room", func(t *testing.T) { sourceBlocks(t, rig(t)) })
	t.Run("check", func(t *testing.T) {
		r := rig(t)
		d, _ := Deps(t)
		if err := r.New(d).Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

var errCrash = errors.New("crash")

// read runs a new source until it has emitted n events, settles each batch in
// turn with what fate says of its number of events so far, and stops.
func read(t testing.TB, r SourceRig, n int, fate func(sofar int) error) []event.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var got []event.Event
	enough := make(chan struct{})
	closed := false
	d, _ := Deps(t)
	done := make(chan error, 1)
	src := r.New(d)
	go func() {
		done <- src.Run(ctx, func(_ context.Context, b driver.Batch) error {
			mu.Lock()
			defer mu.Unlock()
			for _, rec := range b.Records {
				if rec.Err != nil {
					t.Errorf("event %s: %v", rec.Event.ID, rec.Err)
				}
				got = append(got, rec.Event)
			}
			var err error
			if fate != nil {
				err = fate(len(got))
			}
			b.Done(err)
			if len(got) >= n && !closed {
				closed = true
				close(enough)
			}
			return nil
		})
	}()
	select {
	case <-enough:
	case err := <-done:
		t.Fatalf("the source ended after %d of %d events: %v", len(got), n, err)
	case <-time.After(patience):
		mu.Lock()
		defer mu.Unlock()
		t.Fatalf("%d of %d events came within %v", len(got), n, patience)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the source outlived its context")
	}
	return got
}

// sourceBlocks holds a source in emit: it must wait, and end with its context.
func sourceBlocks(t *testing.T, r SourceRig) {
	r.Put(t, Events(50))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d, _ := Deps(t)
	blocked := make(chan struct{}, 100)
	done := make(chan error, 1)
	src := r.New(d)
	go func() {
		done <- src.Run(ctx, func(ctx context.Context, _ driver.Batch) error {
			blocked <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	select {
	case <-blocked:
	case <-time.After(patience):
		t.Fatal("nothing was emitted")
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the source outlived its context")
	}
	if r.Return != nil {
		r.Return()
	}
	check(t, Events(50), read(t, r, 50, nil), r.Ordered)
}
