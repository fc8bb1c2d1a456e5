// Package lane decides when one webhook endpoint gets which event. It is a
// state machine without I/O, goroutines or clock: the engine tells it what
// happened and when, and does what it answers. No compatibility promise.
//
// A lane is live (it takes events as they are stored), lagging (it has a
// cursor and reads the stream at its own speed) or disabled (it keeps only the
// cursor). Beside that it may be paused by its circuit breaker or by a
// Retry-After. The rule behind everything: each event that matches the
// endpoint is, at any time, either after the cursor, or held in the window, or
// settled (delivered, scheduled for retry, or given up visibly).
package lane

import (
	"slices"
	"time"
)

// Mode is where a lane takes its events from.
type Mode string

// The modes of a lane.
const (
	Live     Mode = "live"
	Lagging  Mode = "lagging"
	Disabled Mode = "disabled"
)

// Limits bound a lane; every number is per endpoint.
type Limits struct {
	Queue       int           // events waiting; at the limit the lane turns lagging
	Concurrency int           // requests in flight
	Window      int           // events begun and not settled in order; at the limit nothing is begun
	Scheduled   int           // stored retries; at the limit failures stay behind the cursor
	MaxWait     time.Duration // age of the oldest waiting event that turns the lane lagging
	Schedule    Schedule
	GiveUp      time.Duration // failing for so long disables the endpoint
}

// DefaultLimits are the limits of a lane if nothing else is configured.
func DefaultLimits() Limits {
	return Limits{
		Queue: 64, Concurrency: 8, Window: 4096, Scheduled: 1000,
		MaxWait: 2 * time.Second, Schedule: DefaultSchedule(), GiveUp: 120 * time.Hour,
	}
}

// Kind is how an item reached the lane.
type Kind uint8

// The kinds of items.
const (
	FromStream Kind = iota // offered live
	FromCursor             // read by the lagging lane
	FromRetry              // a stored retry fell due; it lives apart from the window
)

// Item is one event on its way to the endpoint.
type Item struct {
	Seq     uint64
	Attempt int       // the attempt to be made, from 1
	First   time.Time // when the first attempt was made; zero before it
	Kind    Kind
	Ref     any // the engine's own

	since time.Time
}

// slot is an event of the window.
type slot struct {
	seq  uint64
	kind Kind
	done bool
}

// Lane is the state of one endpoint. Not safe for concurrent use.
type Lane struct {
	lim     Limits
	mode    Mode
	queue   []Item // waiting, oldest first
	window  []slot // events queued, running or settled out of order; ascending by seq
	reads   int    // window slots of kind FromCursor that are not done
	running int
	read    uint64 // lagging: every event up to here was taken into the window or skipped
	stored  int    // retries in the store
	breaker
}

// State is what survives a restart.
type State struct {
	Mode         Mode      `json:"mode"`
	Cursor       uint64    `json:"cursor,omitempty"` // lagging, disabled: settled up to here
	PausedUntil  time.Time `json:"pausedUntil,omitzero"`
	Trials       int       `json:"trials,omitempty"` // failed in a row
	FailingSince time.Time `json:"failingSince,omitzero"`
}

// New restores a lane. A new endpoint starts lagging at the stream's last
// sequence; the engine makes it live when its reader has met the stream.
func New(lim Limits, s State) *Lane {
	l := &Lane{lim: lim, mode: s.Mode, read: s.Cursor}
	l.breaker = breaker{until: s.PausedUntil, trials: s.Trials, since: s.FailingSince, limit: 1}
	l.trial = s.Trials > 0
	return l
}

// Snapshot is the state to store. head is the last sequence of the stream that
// was offered to all lanes.
func (l *Lane) Snapshot(head uint64) State {
	s := State{Mode: l.mode, PausedUntil: l.until, Trials: l.trials, FailingSince: l.since}
	if l.mode == Live && l.reads > 0 {
		s.Mode = Lagging // what it read before it met the stream is covered by the cursor only
	}
	if s.Mode != Live {
		s.Cursor = l.Cursor(head)
	}
	return s
}

// Cursor is the sequence up to which everything is settled.
func (l *Lane) Cursor(head uint64) uint64 {
	c := head
	if l.mode != Live {
		c = l.read
	}
	if len(l.window) > 0 {
		c = min(c, l.window[0].seq-1)
	}
	return c
}

// Mode is the current mode.
func (l *Lane) Mode() Mode { return l.mode }

// Load is how many items wait, run, and are stored as retries.
func (l *Lane) Load() (waiting, running, stored int) { return len(l.queue), l.running, l.stored }

// Oldest is when the oldest waiting item came; zero if none waits.
func (l *Lane) Oldest() time.Time {
	if len(l.queue) == 0 {
		return time.Time{}
	}
	return l.queue[0].since
}

// Offer hands over an event of the stream. It answers true when the lane took
// it into its queue, false when it need not: the event is settled, or stands
// behind the cursor of a lane that is not live. A full queue turns the lane
// lagging, which the engine must store.
func (l *Lane) Offer(it Item, head uint64, now time.Time) bool {
	if l.mode != Live {
		return false
	}
	if _, seen := l.find(it.Seq); seen {
		return false // delivered again by the stream; still running or settled
	}
	if len(l.queue) >= l.lim.Queue {
		l.lag(head)
		l.read = min(l.read, it.Seq-1)
		return false
	}
	it.Kind = FromStream
	l.push(it, now)
	return true
}

// Seen reports whether the lane holds or has settled the event since the
// cursor.
func (l *Lane) Seen(seq uint64) bool { _, ok := l.find(seq); return ok }

// Due hands over a stored retry whose time has come. When the lane cannot take
// it, ok is false and it must be scheduled again for the answered time, without
// counting as an attempt.
func (l *Lane) Due(it Item, now time.Time, rnd float64) (later time.Time, ok bool) {
	switch {
	case l.mode == Disabled:
		return now.Add(spread(15*time.Minute, rnd)), false
	case now.Before(l.until):
		return l.until.Add(spread(time.Second, rnd)), false
	case len(l.queue) >= l.lim.Queue:
		return now.Add(spread(2*time.Second, rnd)), false
	}
	it.Kind, it.since = FromRetry, now
	l.queue = append(l.queue, it)
	return time.Time{}, true
}

// Wants says where a lagging lane would read on, and how many events it takes.
func (l *Lane) Wants(now time.Time) (after uint64, count int, ok bool) {
	if l.mode != Lagging || now.Before(l.until) || len(l.window) >= l.lim.Window {
		return 0, 0, false
	}
	count = l.lim.Queue - len(l.queue)
	if l.trial {
		count = 1 - len(l.queue) - l.running
	} else if count < l.lim.Queue/2 {
		return 0, 0, false // larger pages cost less
	}
	return l.read, count, count > 0
}

// Feed hands over the events read after the place Wants named, ascending, and
// the last sequence the reader looked at. A lane that moved its cursor or
// stopped lagging meanwhile ignores them.
func (l *Lane) Feed(after uint64, items []Item, upTo uint64, now time.Time) {
	if l.mode != Lagging || l.read != after {
		return
	}
	for _, it := range items {
		if it.Seq <= after {
			continue
		}
		if _, seen := l.find(it.Seq); !seen {
			it.Kind = FromCursor
			l.push(it, now)
		}
	}
	l.read = max(l.read, upTo)
	l.trim()
}

// Meet makes a lagging lane live if its reader has come to the head of the
// stream. The engine calls it while no event can be offered.
func (l *Lane) Meet(head uint64, now time.Time) bool {
	if l.mode != Lagging || l.read < head || now.Before(l.until) || l.trial {
		return false
	}
	l.mode = Live
	l.trim()
	return true
}

// Take begins the next attempt, if one may begin now.
func (l *Lane) Take(now time.Time) (Item, bool) {
	if len(l.queue) == 0 || l.mode == Disabled || !l.admits(l.running, now) || len(l.window) > l.lim.Window {
		return Item{}, false
	}
	it := l.queue[0]
	l.queue[0] = Item{}
	l.queue = l.queue[1:]
	l.running++
	return it, true
}

// Settle records that the event is delivered, scheduled or given up, and that
// this is stored.
func (l *Lane) Settle(it Item) {
	if it.Kind == FromRetry {
		return
	}
	i, ok := l.find(it.Seq)
	if !ok || l.window[i].done {
		return
	}
	l.window[i].done = true
	if l.window[i].kind == FromCursor {
		l.reads--
	}
	l.trim()
}

// Abandon ends an attempt that Take began and that came to nothing, because
// the engine stops. The event stays unsettled.
func (l *Lane) Abandon(Item) { l.running-- }

// Stored changes the number of stored retries.
func (l *Lane) Stored(by int) { l.stored = max(0, l.stored+by) }

// Tick turns a live lane lagging when its oldest event has waited too long. It
// reports whether it did.
func (l *Lane) Tick(head uint64, now time.Time) bool {
	if l.mode != Live || len(l.queue) == 0 || now.Sub(l.queue[0].since) < l.lim.MaxWait {
		return false
	}
	l.lag(head)
	return true
}

// Lag turns a live lane lagging at once.
func (l *Lane) Lag(head uint64) {
	if l.mode == Live {
		l.lag(head)
	}
}

// Disable stops the lane and keeps its cursor. It returns the due retries that
// waited; they must be scheduled again.
func (l *Lane) Disable(head uint64) []Item {
	l.Lag(head)
	l.forget(0)
	l.mode = Disabled
	return l.takeDue()
}

// Enable lets a disabled lane read on from its cursor.
func (l *Lane) Enable() {
	if l.mode != Disabled {
		return
	}
	l.mode = Lagging
	l.breaker = breaker{limit: 1}
}

// Rewind moves the cursor, back for a replay. Events in flight are not sent
// a second time.
func (l *Lane) Rewind(after, head uint64) {
	l.Lag(head)
	l.forget(0)
	l.window = slices.DeleteFunc(l.window, func(s slot) bool { return s.done })
	l.read = after
}

// Skip moves the cursor to first, the oldest event that the stream still has,
// and returns how many positions it had not read. What waits or runs goes on: it
// is in memory.
func (l *Lane) Skip(first uint64) (lost uint64) {
	if l.mode == Live || l.read+1 >= first {
		return 0
	}
	lost = first - 1 - l.read
	l.read = first - 1
	l.trim()
	return lost
}

// push queues an item and notes it in the window.
func (l *Lane) push(it Item, now time.Time) {
	it.since = now
	l.queue = append(l.queue, it)
	s := slot{seq: it.Seq, kind: it.Kind}
	i, _ := l.find(it.Seq)
	l.window = slices.Insert(l.window, i, s)
	if it.Kind == FromCursor {
		l.reads++
	}
}

func (l *Lane) find(seq uint64) (int, bool) {
	if n := len(l.window); n == 0 || l.window[n-1].seq < seq {
		return n, false
	}
	return slices.BinarySearchFunc(l.window, seq, func(s slot, q uint64) int {
		switch {
		case s.seq < q:
			return -1
		case s.seq > q:
			return 1
		}
		return 0
	})
}

// trim forgets settled events at the start of the window that no reader will
// meet again.
func (l *Lane) trim() {
	n := 0
	for n < len(l.window) && l.window[n].done && (l.mode == Live || l.window[n].seq <= l.read) {
		n++
	}
	l.window = l.window[n:]
}

// lag leaves live mode: what waits is dropped and will be read again; what
// runs is from now on covered by the cursor.
func (l *Lane) lag(head uint64) {
	l.mode, l.read = Lagging, head
	l.forget(0)
	for i, s := range l.window {
		if s.kind == FromStream && !s.done {
			l.window[i].kind = FromCursor
			l.reads++
		}
	}
}

// forget drops the waiting events of the stream from queue and window, and the
// event also, so that the cursor stays before them.
func (l *Lane) forget(also uint64) {
	drop := map[uint64]bool{}
	if also != 0 {
		drop[also] = true
	}
	l.queue = slices.DeleteFunc(l.queue, func(it Item) bool {
		if it.Kind != FromRetry {
			drop[it.Seq] = true
		}
		return it.Kind != FromRetry
	})
	if len(drop) == 0 {
		return
	}
	l.window = slices.DeleteFunc(l.window, func(s slot) bool {
		if !drop[s.seq] {
			return false
		}
		if s.kind == FromCursor && !s.done {
			l.reads--
		}
		l.read = min(l.read, s.seq-1)
		return true
	})
}

// takeDue empties the queue of due retries.
func (l *Lane) takeDue() []Item {
	var due []Item
	l.queue = slices.DeleteFunc(l.queue, func(it Item) bool {
		if it.Kind == FromRetry {
			due = append(due, it)
		}
		return it.Kind == FromRetry
	})
	return due
}
