package lane

import (
	"math/bits"
	"time"
)

const (
	// Five events in a row, or half of the last twenty, open the breaker.
	openRow    = 5
	openOf     = 20
	openFailed = openOf / 2
)

// breaker pauses an endpoint that fails as a whole, so that its events stay
// behind the cursor instead of becoming a stored retry each. After a pause one
// request at a time is tried.
type breaker struct {
	row     int       // first attempts failed in a row
	history uint32    // last openOf first attempts, 1 = failed
	until   time.Time // paused until
	trial   bool      // was paused and has not succeeded since: one request at a time
	trials  int       // pauses since the last success
	since   time.Time // failing since; zero when the last attempt succeeded
	limit   int       // requests in flight now allowed; grows by one per success
}

func (b *breaker) admits(running int, now time.Time) bool {
	if now.Before(b.until) || b.trial && running > 0 {
		return false
	}
	return running < max(1, b.limit)
}

// Paused is until when nothing is sent; the zero time if something is.
func (b *breaker) Paused(now time.Time) time.Time {
	if now.Before(b.until) {
		return b.until
	}
	return time.Time{}
}

// FailingSince is when the first of the latest failures in a row happened.
func (b *breaker) FailingSince() time.Time { return b.since }

func (b *breaker) success(limit int) {
	b.row, b.history = 0, b.history<<1
	b.trial, b.trials, b.until, b.since = false, 0, time.Time{}, time.Time{}
	b.limit = min(b.limit+1, limit)
}

// failure counts a failed attempt and reports whether the endpoint must pause.
// Only first attempts count: the retries of one bad event say nothing about
// the endpoint.
func (b *breaker) failure(first bool, now time.Time) bool {
	if b.since.IsZero() {
		b.since = now
	}
	b.limit = max(1, b.limit/2)
	if first {
		b.row++
		b.history = b.history<<1 | 1
	}
	return b.trial || b.row >= openRow || bits.OnesCount32(b.history&(1<<openOf-1)) >= openFailed
}

// pause counts one more pause, unless it only prolongs the present one.
func (b *breaker) pause(until, now time.Time) {
	if !now.Before(b.until) {
		b.trials++
	}
	b.until, b.trial, b.history = until, true, 0
}

// Result is what one attempt came to.
type Result struct {
	OK         bool
	Gone       bool          // the receiver wants no more events at all
	Abort      bool          // the receiver wants this event no more
	RetryAfter time.Duration // asked by the receiver
}

// Verdict is what becomes of an event after an attempt.
type Verdict string

// The verdicts on an attempt.
const (
	Delivered Verdict = "delivered"
	Retry     Verdict = "retry" // store a retry for Decision.At, then settle
	Dead      Verdict = "dead"  // record it, then settle; no further attempt
	Held      Verdict = "held"  // stays behind the cursor; do not settle
)

// Decision is the answer to a finished attempt. When Changed is set, the
// lane's state must be stored.
type Decision struct {
	Verdict  Verdict
	At       time.Time // Retry, and Held for an item of kind FromRetry
	Changed  bool
	Disabled bool
	Due      []Item // waiting retries that must be scheduled again
}

// Moment is what a decision depends on beside the lane.
type Moment struct {
	Head uint64 // last sequence of the stream that was offered to all lanes
	Now  time.Time
	Rnd  float64 // in [0,1), for jitter
}

// Finish ends an attempt that Take began.
func (l *Lane) Finish(it Item, r Result, m Moment) Decision {
	head, now, rnd := m.Head, m.Now, m.Rnd
	l.running--
	if r.OK {
		changed := !l.since.IsZero() && l.trials > 0
		l.success(l.lim.Concurrency)
		return Decision{Verdict: Delivered, Changed: changed}
	}
	if r.Gone {
		return l.stop(it, head, now)
	}
	wait, more := l.lim.Schedule.Wait(it.Attempt, rnd)
	d := Decision{Verdict: Retry, At: now.Add(max(wait, r.RetryAfter))}
	if !more || r.Abort {
		d.Verdict = Dead
	}
	opens := l.failure(it.Attempt == 1, now)
	if l.mode == Disabled {
		return d
	}
	if l.trials > 0 && now.Sub(l.since) >= l.lim.GiveUp {
		d.Due, d.Changed, d.Disabled = l.Disable(head), true, true
		return d
	}
	if d.Verdict == Retry && it.Kind != FromRetry && l.stored >= l.lim.Scheduled {
		l.Lag(head)
		l.forget(it.Seq)
		d.Verdict, d.Changed, opens = Held, true, true
	}
	until := now.Add(r.RetryAfter)
	if opens && !now.Before(l.until) {
		until = now.Add(max(l.lim.Schedule.probe(l.trials, rnd), r.RetryAfter))
	}
	if until.After(l.until) && until.After(now) {
		l.hold(until, head, now)
		d.Due, d.Changed = l.takeDue(), true
	}
	if now.Before(l.until) && d.At.Before(l.until) {
		d.At = l.until.Add(spread(time.Second, rnd)) // not before the endpoint is tried again
	}
	return d
}

// hold pauses the lane; a pause that queued events would not survive turns it
// lagging.
func (l *Lane) hold(until time.Time, head uint64, now time.Time) {
	l.pause(until, now)
	if until.Sub(now) > l.lim.MaxWait {
		l.Lag(head)
	}
}

// stop disables the lane because the receiver is gone; the event itself stays
// behind the cursor, so that nothing is lost if the operator enables it again.
func (l *Lane) stop(it Item, head uint64, now time.Time) Decision {
	if l.since.IsZero() {
		l.since = now
	}
	was := l.mode
	due := l.Disable(head)
	if it.Kind != FromRetry {
		l.forget(it.Seq)
	}
	return Decision{
		Verdict: Held, At: now.Add(15 * time.Minute), Due: due,
		Changed: was != Disabled, Disabled: was != Disabled,
	}
}
