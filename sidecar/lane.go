package sidecar

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/sidecar/policy"
)

const (
	ackWait   = 10 * time.Second       // the node gives an event to another pod after this silence
	keepEvery = ackWait / 4            // how often held events are kept
	maxHeld   = 256                    // events held per subscription, in calls or parked
	perCall   = 4                      // events held per concurrent call
	pullPause = 250 * time.Millisecond // between pulls that fail
)

// lane is one subscription at work. Its dispatcher goroutine owns the breaker
// and every event it holds; workers make the calls; a puller asks the node for
// exactly as many events as there is room for, so that none waits unkept.
type lane struct {
	name       string
	log        *slog.Logger
	source     source
	durable    string
	worker     *worker
	retry      policy.Retry
	breaker    *policy.Breaker
	bury       bool // dead letters are stored; else events are retried for ever
	hasHealth  bool
	size       int // calls at a time
	capacity   int // events held at most
	drainAfter time.Duration
	metrics    *laneMetrics

	held     []*item // by stream sequence
	busy     int     // workers at work
	probing  bool    // a health probe is under way
	pullAt   time.Time
	stopPull context.CancelFunc
	done     settled

	jobs     chan job
	results  chan result
	arrivals chan *bus.Delivery
	demand   chan pull
	pulled   chan error

	callFault string // why the last call or probe failed; empty: it did not
	pullFault string // why the last pull failed
	toldFault string // the last one logged

	state atomic.Int64           // policy.State, for readers outside
	fault atomic.Pointer[string] // both faults, for readers outside
	count counters
}

// counters are read by the presence report.
type counters struct {
	held, inflight, delivered, failed, buried atomic.Int64
}

// source hands out the events of one durable consumer; *feed is one.
type source interface {
	// Pull calls h with up to n events as they come. It returns when all have
	// come, when there are none for a while, or when ctx ends.
	Pull(ctx context.Context, n int, h func(*bus.Delivery)) error
}

// item is an event that the lane holds until it is settled.
type item struct {
	d           *bus.Delivery
	attempts    int // calls that reached the app
	tries       int // failures in a row, for the back-off
	due         time.Time
	busy        bool
	final       bool   // the call under way is one beyond the attempts, at a closed breaker
	dead        string // reason for the dead letter, once decided
	settled     bool   // only the acknowledgement is left
	last        outcome
	firstFailed time.Time
	journey     journey
}

// A job is what a worker does: call the app with an event, store its dead
// letter, or (without an event) probe the app's health.
type job struct {
	it     *item
	permit policy.Permit
}

type result struct {
	job job
	out outcome
	err error // of a dead letter or a probe
}

type pull struct {
	ctx context.Context
	n   int
}

// run works until ctx ends and then drains.
func (l *lane) run(ctx context.Context) {
	calls, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(l.jobs) // ends the workers
	for range l.size {
		wg.Go(func() {
			for j := range l.jobs {
				l.results <- l.worker.do(calls, j)
			}
		})
	}
	defer close(l.demand) // ends the puller
	wg.Go(l.pull)
	keep := time.NewTicker(keepEvery)
	defer keep.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case d := <-l.arrivals:
			l.hold(d)
		case err := <-l.pulled:
			l.endPull(err)
		case r := <-l.results:
			l.settle(time.Now(), r)
		case <-keep.C:
			l.keep()
		case <-timer.C:
		case <-ctx.Done():
			l.drain(cut)
			return
		}
		timer.Reset(l.advance(time.Now()))
	}
}

// pull serves the dispatcher's demands one after the other.
func (l *lane) pull() {
	for p := range l.demand {
		err := l.source.Pull(p.ctx, p.n, func(d *bus.Delivery) { l.arrivals <- d })
		l.pulled <- err
	}
}

// hold takes an event in, in the order of the stream. One that is held already
// has come again because the node did not hear of it in time: its newer
// delivery is the one to settle.
func (l *lane) hold(d *bus.Delivery) {
	l.pulls("")
	if d.Attempt > 1 && l.done.has(d) {
		l.ack(&item{d: d}) // the node did not hear of it
		return
	}
	i, found := slices.BinarySearchFunc(l.held, d.Seq, func(it *item, seq uint64) int {
		switch {
		case it.d.Seq < seq:
			return -1
		case it.d.Seq > seq:
			return 1
		}
		return 0
	})
	if found && l.held[i].d.Key() == d.Key() {
		if !l.held[i].busy {
			l.held[i].d = d
		}
		return
	}
	l.held = slices.Insert(l.held, i, &item{d: d})
	l.gauge()
}

func (l *lane) endPull(err error) {
	l.stopPull()
	l.stopPull = nil
	fault := ""
	if err != nil {
		l.pullAt = time.Now().Add(pullPause)
		fault = err.Error()
	}
	if err != nil && fault != l.pullFault && !errors.Is(err, errNoUpstream) { // the upstream tells of itself
		l.log.Warn("events not pulled", "subscription", l.name, "err", err)
	}
	l.pulls(fault)
}

// pulls notes why pulls fail, or that they work again.
func (l *lane) pulls(fault string) {
	if fault == l.pullFault {
		return
	}
	if fault == "" {
		l.log.Info("events pulled again", "subscription", l.name)
	}
	l.pullFault = fault
	l.explain()
}

// explain tells readers outside what does not work.
func (l *lane) explain() {
	both := strings.Trim(l.pullFault+"; "+l.callFault, "; ")
	l.fault.Store(&both)
}

// moved is told of every transition of the breaker.
func (l *lane) moved(from, to policy.State) {
	l.state.Store(int64(to))
	l.metrics.moved(to)
	level, why := slog.LevelDebug, "" // a probe that fails again is no news
	switch {
	case to == policy.Open:
		why = cmp.Or(l.callFault, "calls are slow")
		if from == policy.Closed || why != l.toldFault {
			level, l.toldFault = slog.LevelWarn, why
		}
	case to == policy.Closed:
		level = slog.LevelInfo
	}
	l.log.Log(context.Background(), level, "breaker moved", "subscription", l.name, "from", from.String(), "to", to.String(), "reason", why)
}

// keep tells the node that every held event is still being worked on, and
// repeats acknowledgements that could not be sent.
func (l *lane) keep() {
	for _, it := range slices.Clone(l.held) {
		if it.settled {
			l.ack(it)
			continue
		}
		if err := it.d.InProgress(); err != nil {
			l.log.Debug("event not kept", "subscription", l.name, "seq", it.d.Seq, "err", err)
		}
	}
}

// advance hands out what can be done now and returns when to look again.
func (l *lane) advance(now time.Time) time.Duration {
	next := keepEvery
	l.reopen(now)
	for l.busy < l.size && !l.probing {
		it, wait := l.pick(now)
		if it == nil {
			next = min(next, wait)
			break
		}
		j := job{it: it}
		if it.dead == "" {
			p, left, ok := l.breaker.Acquire(now)
			if !ok {
				if left > 0 {
					next = min(next, left)
				}
				break
			}
			j.permit = p
			it.final = l.breaker.State() == policy.Closed && l.retry.Exhausted(it.attempts)
			it.journey.begin(l, it)
		}
		it.busy = true
		l.busy++
		l.count.inflight.Add(1)
		l.jobs <- j // there is a free worker
	}
	next = min(next, l.ask(now))
	if l.breaker.State() == policy.Open && l.busy < l.size { // else the next result comes first
		next = min(next, max(l.breaker.Until().Sub(now), 0))
	}
	return next
}

// reopen ends the wait of an open breaker: the first question goes to the
// health path, which costs no attempt.
func (l *lane) reopen(now time.Time) {
	if l.breaker.State() != policy.Open || now.Before(l.breaker.Until()) || l.busy >= l.size {
		return
	}
	p, _, ok := l.breaker.Acquire(now)
	if !ok {
		return
	}
	if !l.hasHealth {
		l.breaker.Release(p)
		return
	}
	l.probing = true
	l.busy++
	l.jobs <- job{permit: p}
}

// pick returns the oldest event that is due. While the breaker is not closed,
// events without attempts left come last: their fate is decided when the app
// works again. Without one it returns how long until the next is due.
func (l *lane) pick(now time.Time) (*item, time.Duration) {
	wait := keepEvery
	var last *item
	closed := l.breaker.State() == policy.Closed
	for _, it := range l.held {
		if it.busy || it.settled {
			continue
		}
		if left := it.due.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		if closed || it.dead != "" || !l.retry.Exhausted(it.attempts) {
			return it, 0
		}
		if last == nil {
			last = it
		}
	}
	if last != nil {
		return last, 0
	}
	return nil, wait
}

// ask pulls as many events as there is room for: none while the breaker is
// open, as many as probes while it is half open.
func (l *lane) ask(now time.Time) time.Duration {
	room := l.capacity - len(l.held)
	switch l.breaker.State() {
	case policy.Open:
		room = 0
	case policy.HalfOpen:
		room = min(room, l.size-l.fresh())
	}
	if l.stopPull != nil { // one pull at a time
		if l.breaker.State() == policy.Open {
			l.stopPull()
		}
		return keepEvery
	}
	if left := l.pullAt.Sub(now); left > 0 {
		return left
	}
	if room <= 0 || (l.breaker.State() == policy.Closed && room < l.capacity/2) {
		return keepEvery
	}
	var ctx context.Context
	ctx, l.stopPull = context.WithCancel(context.Background())
	l.demand <- pull{ctx, room}
	return keepEvery
}

// fresh counts the events that may serve as probes.
func (l *lane) fresh() int {
	n := 0
	for _, it := range l.held {
		if !it.settled && !l.retry.Exhausted(it.attempts) {
			n++
		}
	}
	return n
}

// settle takes the result of a job.
func (l *lane) settle(now time.Time, r result) {
	l.busy--
	it := r.job.it
	if it == nil {
		l.probed(now, r)
		return
	}
	it.busy = false
	l.count.inflight.Add(-1)
	switch {
	case it.dead != "" && r.err != nil:
		it.tries++
		it.due = now.Add(l.retry.Wait(it.tries, rand.Float64()))
		l.log.Warn("dead letter not stored", "subscription", l.name, "seq", it.d.Seq, "err", r.err)
	case it.dead != "":
		l.count.buried.Add(1)
		l.metrics.buried(it.dead)
		l.log.Warn("event dead-lettered", "subscription", l.name, "seq", it.d.Seq, "reason", it.dead, "status", it.last.status, "attempts", it.attempts)
		it.journey.end(it)
		l.ack(it)
	default:
		l.judge(now, it, r)
	}
	l.gauge()
}

// probed takes the answer of the health path.
func (l *lane) probed(now time.Time, r result) {
	l.probing = false
	if r.err != nil {
		l.callFault = r.err.Error()
		l.explain()
		l.breaker.Trip(now, r.job.permit)
		l.log.Debug("health probe failed", "subscription", l.name, "err", r.err)
		return
	}
	l.breaker.Release(r.job.permit)
}

// judge decides what becomes of an event after a call.
func (l *lane) judge(now time.Time, it *item, r result) {
	it.last = r.out
	l.metrics.called(r.out)
	if r.out.verdict != aborted {
		l.callFault = r.out.fault()
		l.explain()
	}
	switch r.out.verdict {
	case accepted:
		it.attempts++
		l.breaker.Record(now, r.job.permit, false, r.out.took)
		l.count.delivered.Add(1)
		it.journey.end(it)
		l.ack(it)
		return
	case failed:
		it.attempts++
		l.breaker.Record(now, r.job.permit, true, r.out.took)
	case refused:
		it.attempts++
		l.breaker.Release(r.job.permit)
		if l.bury {
			it.dead = reasonClientError
		}
	case unreached:
		l.breaker.Trip(now, r.job.permit)
	case aborted:
		l.breaker.Release(r.job.permit)
		return
	}
	l.count.failed.Add(1)
	if it.firstFailed.IsZero() {
		it.firstFailed = now
	}
	// While the breaker is not closed nothing is given up: the app fails, not
	// the event. It has one more call when the app works again; that one decides.
	if l.bury && it.dead == "" && l.retry.Exhausted(it.attempts) && (it.final || l.breaker.State() == policy.Closed) {
		it.dead = reasonMaxAttempts
	}
	l.metrics.retried(it.dead == "")
	if it.dead != "" {
		it.due, it.tries = now, 0
		return
	}
	it.tries++
	it.due = now.Add(max(l.retry.Wait(it.tries, rand.Float64()), r.out.after))
	l.log.Debug("delivery failed", "subscription", l.name, "seq", it.d.Seq, "attempt", it.attempts, "status", r.out.status, "verdict", r.out.verdict.String())
}

// ack settles an event for good. If the node cannot be told, it is told again
// with the next keep.
func (l *lane) ack(it *item) {
	if err := it.d.Ack(); err != nil {
		it.settled = true
		l.log.Debug("event not acknowledged yet", "subscription", l.name, "seq", it.d.Seq, "err", err)
		return
	}
	l.done.add(it.d)
	l.held = slices.DeleteFunc(l.held, func(o *item) bool { return o == it })
	l.gauge()
}

func (l *lane) gauge() {
	l.count.held.Store(int64(len(l.held)))
	l.metrics.inflight.Set(float64(l.busy))
	l.metrics.held.Set(float64(len(l.held)))
}

// drain gives back what was not handed to the app, waits for the calls under
// way and gives back what they left. cut ends calls that take too long.
func (l *lane) drain(cut context.CancelFunc) {
	if l.stopPull != nil {
		l.stopPull()
	}
	late := time.AfterFunc(l.drainAfter, cut)
	defer late.Stop()
	l.release()
	for l.busy > 0 || l.stopPull != nil {
		select {
		case d := <-l.arrivals:
			l.hold(d)
		case err := <-l.pulled:
			l.endPull(err)
		case r := <-l.results:
			l.settle(time.Now(), r)
			if it := r.job.it; it != nil && it.dead != "" && it.tries == 0 && !it.settled && slices.Contains(l.held, it) {
				it.busy = true
				l.busy++
				l.jobs <- job{it: it} // the call decided on a dead letter: store it yet
			}
		}
		l.release()
	}
}

// release gives every idle event back to the node, for another pod or the next
// start: at once if the app has not seen it, else when its back-off is over.
func (l *lane) release() {
	now := time.Now()
	for _, it := range l.held {
		if it.busy {
			continue
		}
		var err error
		if it.settled {
			err = it.d.Ack()
		} else {
			err = it.d.Nak(max(it.due.Sub(now), 0))
		}
		it.journey.end(it)
		if err != nil {
			l.log.Debug("event not given back", "subscription", l.name, "seq", it.d.Seq, "err", err)
		}
	}
	l.held = slices.DeleteFunc(l.held, func(it *item) bool { return !it.busy })
	l.gauge()
}
