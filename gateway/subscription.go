package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
)

// pageSize is the number of events read from history at once. Each page costs
// three round trips to the server, which take their time on a busy machine: with
// small pages a subscription would fall behind for good.
const pageSize = 1000

// Reasons of a gap.
const (
	gapRetention = "retention" // the stream no longer holds the events
	gapEpoch     = "epoch"     // the stream was made anew and the position means nothing in it
)

// gap tells a subscriber that events may be missing: those from..to, or in a new
// epoch an unknown number (to is 0).
type gap struct {
	from, to uint64
	why      string
}

// subscription is a position in a feed, and nothing else: no queue. It reads
// from the tail while its position is inside, else from the stream's history,
// so a slow reader falls back to history by itself and misses nothing that the
// stream still holds.
type subscription struct {
	tail   *tail
	feed   *feed
	notify func()      // wakes the owner; must not block
	dirty  atomic.Bool // set before notify; cleared by the owner
	live   atomic.Bool // at the head: waits for the next event

	// The owner's drain, one goroutine at a time, has the rest.
	epoch string
	pos   uint64 // everything up to pos has been handed out
	buf   []*entry
}

// step is what a subscription has next, in this order.
type step struct {
	gap    *gap
	events []*entry // valid until the next call
	live   bool     // the head was reached, first or again
	parked bool     // fell out of the tail: history goes on from here
	more   bool     // call next again
}

// wake tells the owner that there is something to read. Called by the tail.
func (s *subscription) wake() {
	s.dirty.Store(true)
	s.notify()
}

// next returns events after the position and moves it: a page of history, or at
// most limit events of the tail.
func (s *subscription) next(ctx context.Context, limit int) (step, error) {
	t := s.tail
	t.mu.RLock()
	if t.epoch != s.epoch {
		st := s.renew(t.epoch)
		t.mu.RUnlock()
		return st, nil
	}
	floor := s.feed.floor
	if s.pos < floor {
		t.mu.RUnlock()
		return s.history(ctx, floor)
	}
	defer t.mu.RUnlock()
	w := s.feed.entries[s.feed.find(s.pos):]
	if len(w) > 0 {
		s.buf = append(s.buf[:0], w[:min(limit, len(w))]...)
		s.pos = s.buf[len(s.buf)-1].Seq
		return step{events: s.buf, more: true}, nil
	}
	s.pos = max(s.pos, t.head)
	return step{live: !s.live.Swap(true)}, nil
}

// renew starts over in a stream that was made anew.
func (s *subscription) renew(epoch string) step {
	g := &gap{from: s.pos + 1, why: gapEpoch}
	s.epoch, s.pos = epoch, 0
	s.live.Store(false)
	return step{gap: g, more: true}
}

// history reads a page of the stream up to floor, where the tail begins. What
// retention removed before it could be read is a gap: the stream's first
// sequence, looked up after the page, tells whether a hole in the page may have
// held events.
func (s *subscription) history(ctx context.Context, floor uint64) (step, error) {
	st := step{more: true, parked: s.live.Swap(false)}
	events, next, err := s.tail.page(ctx, bus.PageConfig{
		Pattern: s.feed.pattern, After: s.pos, UpTo: floor, Max: pageSize,
	})
	if err != nil {
		return step{}, err
	}
	info, err := s.tail.log.Info(ctx)
	if err != nil {
		return step{}, fmt.Errorf("look at the stream: %w", err)
	}
	if info.Epoch != s.epoch {
		return step{}, errRenewed // the tail finds out as well and wakes everybody
	}
	to := max(next, s.pos)
	if first := firstAfter(events, floor); s.pos+1 < min(info.First, first) {
		st.gap = &gap{from: s.pos + 1, to: min(info.First, first) - 1, why: gapRetention}
	}
	s.buf = s.buf[:0]
	for i, ev := range events {
		if i > 0 && events[i-1].Seq+1 < min(info.First, ev.Seq) {
			to = events[i-1].Seq // a hole that retention may have made: the next page begins with it
			break
		}
		if e := (&entry{Stored: ev.Delivered()}); s.feed.filter.Match(e) {
			s.buf = append(s.buf, e)
		}
	}
	s.pos = to
	if len(events) == 0 {
		s.pos = floor
	}
	st.events = s.buf
	return st, nil
}

// firstAfter is where a page begins: its first event, or past its end.
func firstAfter(events []event.Stored, end uint64) uint64 {
	if len(events) == 0 {
		return end + 1
	}
	return events[0].Seq
}

var errRenewed = errors.New("the stream was made anew")
