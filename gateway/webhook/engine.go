package webhook

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"weft.dev/weft/gateway/webhook/lane"
	"weft.dev/weft/internal/bus"
)

const (
	durableEvents = "weft_webhooks"
	eventsAckWait = 20 * time.Second
	eventsPending = 8192

	// maxInFlight bounds the requests of the node. The first request of each
	// endpoint is always allowed, so that hanging endpoints cannot use it up for
	// the others.
	maxInFlight = 2048
	// maxHeldBytes bounds the data of events waiting in memory; above it
	// endpoints read from the stream instead.
	maxHeldBytes = 64 << 20
	// maxReaders bounds the concurrent pages of lagging endpoints.
	maxReaders = 16

	sweepEvery      = 250 * time.Millisecond
	checkpointEvery = 5 * time.Second
	progressAfter   = eventsAckWait / 4

	// drainTime is how long requests in flight may finish when the node stops,
	// flushTime how long their outcome may take to be stored.
	drainTime = 5 * time.Second
	flushTime = 3 * time.Second
)

// engine delivers, on the one node that holds the lease. It lives for one
// term.
//
// An event of the shared consumer is acknowledged when no lane needs it any
// more: each has it settled in the journal, or covered by a stored cursor. A
// flight counts what is missing.
type engine struct {
	*Service
	st      *stores
	lease   *lease
	journal *journal
	retries *retries
	limits  lane.Limits
	ctx     context.Context // of requests and storing; ends after the drain
	wg      sync.WaitGroup  // workers, readers, keepers
	readers chan struct{}   // tokens, maxReaders
	keep    chan struct{}   // capacity 1: some track is dirty
	counted chan struct{}   // capacity 1: the number of tracks changed

	mu       sync.Mutex // guards all below and the lanes
	began    time.Time
	closing  bool // no attempt begins any more
	tracks   map[string]*track
	index    index
	idle     bool   // there is no consumer; base and head mean nothing, no lane reads
	base     uint64 // the stream's end when the consumer began: up to here lanes read by cursor
	head     uint64 // last sequence offered to the lanes
	first    uint64 // the stream's start, as last seen
	flights  map[uint64]*flight
	recent   recent // acknowledged lately
	held     int    // bytes of the events in flights
	inFlight int
	dirty    []*track
}

// flight is an event of the shared consumer that some lane still needs.
type flight struct {
	d     *bus.Delivery
	n     int // holds
	since time.Time
}

func newEngine(ctx context.Context, s *Service, st *stores, l *lease) *engine {
	e := &engine{
		Service: s, st: st, lease: l, limits: s.cfg.limits(), ctx: ctx,
		readers: make(chan struct{}, maxReaders), keep: make(chan struct{}, 1), counted: make(chan struct{}, 1), idle: true,
		began: time.Now(), tracks: map[string]*track{}, flights: map[uint64]*flight{}, retries: &retries{js: st.js, log: s.Log},
	}
	e.journal = newJournal(st.js, s.Log, e.settleAll)
	return e
}

// run delivers until ctx ends. Then requests in flight get drainTime to finish.
func (s *Service) runEngine(ctx context.Context, st *stores, l *lease) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	e := newEngine(own, s, st, l)
	if err := e.recover(ctx); err != nil {
		return err
	}
	s.engine.Store(e)
	s.metrics.leading.Set(1)
	defer func() { s.engine.Store(nil); s.metrics.leading.Set(0) }()

	unanswer, err := e.answerStatus(s.Conn)
	if err != nil {
		e.stop()
		return err
	}
	defer unanswer()
	journalCtx, endJournal := context.WithCancel(own)
	var journal, feeds sync.WaitGroup
	journal.Go(func() { e.journal.run(journalCtx, flushTime) })
	feeds.Go(func() { e.consume(ctx) })
	feeds.Go(func() { e.retries.consume(ctx, st.retry, e.fallDue) })
	feeds.Go(func() { e.sweep(ctx) })
	for range 4 { // puts of many endpoints at once
		feeds.Go(func() { e.keeper(ctx) })
	}
	<-ctx.Done()
	e.stop()
	feeds.Wait()
	idle := make(chan struct{})
	go func() { e.wg.Wait(); close(idle) }() // ends with the workers
	select {
	case <-idle:
	case <-time.After(drainTime):
	case <-l.lost: // another node delivers now
	}
	endJournal()
	journal.Wait()
	e.saveAll(own)
	cancel()
	<-idle
	return nil
}

// stop lets nothing begin any more.
func (e *engine) stop() {
	e.st.observe(nil)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closing = true
	for _, t := range e.tracks {
		if t.timer != nil {
			t.timer.Stop()
		}
	}
}

// dispatch offers one event to every endpoint that wants it. It does no I/O
// but the acknowledgement, which waits for nobody.
func (e *engine) dispatch(_ context.Context, d *bus.Delivery) error {
	now := time.Now()
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		return nil // comes again after AckWait, or to the next node
	}
	e.head = max(e.head, d.Seq)
	if f := e.flights[d.Seq]; f != nil {
		f.d, f.since = d, now // delivered again; the newest handle acknowledges
		e.mu.Unlock()
		return nil
	}
	if e.recent.has(d.Seq) {
		e.mu.Unlock()
		return d.Ack()
	}
	if e.index.stale {
		e.index.rebuild(e.tracks)
	}
	f, p := &flight{d: d, since: now}, newPayload(d.Stored)
	for _, t := range e.index.match(d.Path) {
		if d.Seq > t.ep.After && t.offered != d.Seq {
			t.offered = d.Seq
			e.offer(t, f, p, now)
		}
	}
	done := f.n == 0
	if done {
		e.recent.add(d.Seq)
	} else {
		e.flights[d.Seq] = f
		e.held += len(d.Data)
	}
	e.mu.Unlock()
	if done {
		return d.Ack()
	}
	return nil
}

// offer hands an event to one lane and notes whether the lane needs it to stay
// unacknowledged. Events up to base are never offered: all lanes read those
// by their cursors. The caller holds mu.
func (e *engine) offer(t *track, f *flight, p *payload, now time.Time) {
	took := false
	if p.Seq > e.base {
		was := t.Mode()
		if e.held > maxHeldBytes {
			t.Lag(p.Seq - 1)
		}
		took = t.Offer(lane.Item{Seq: p.Seq, Attempt: 1, Ref: p}, e.head, now)
		if t.Mode() != was {
			e.markDirty(t)
		}
	}
	if took || !t.covers && p.Seq > t.Cursor(e.head) {
		t.holds[p.Seq] = f
		f.n++
	}
	if took {
		e.work(t, now)
	} else {
		e.read(t, now)
	}
}

// work begins as many attempts as the lane allows. The caller holds mu.
func (e *engine) work(t *track, now time.Time) {
	for !e.closing && !t.gone {
		if _, running, _ := t.Load(); running > 0 && e.inFlight >= maxInFlight {
			return
		}
		it, ok := t.Take(now)
		if !ok {
			return
		}
		e.inFlight++
		e.wg.Go(func() { e.worker(t, it) }) // ends when the lane has nothing to begin
	}
}

// worker makes attempts for one lane, one after another.
func (e *engine) worker(t *track, it lane.Item) {
	for ok := true; ok; {
		e.attempt(t, it)
		now := time.Now()
		e.mu.Lock()
		if ok = !e.closing && !t.gone && e.inFlight <= maxInFlight; ok {
			it, ok = t.Take(now)
		}
		if !ok {
			e.inFlight--
		}
		e.work(t, now)
		e.read(t, now)
		e.mu.Unlock()
	}
}

// eventOf is the event of an item, first attempt or stored retry.
func eventOf(it lane.Item) *payload {
	if d, ok := it.Ref.(*due); ok {
		return d.payload
	}
	return it.Ref.(*payload)
}

// attempt makes one request and acts on its outcome.
func (e *engine) attempt(t *track, it lane.Item) {
	e.mu.Lock()
	ep := t.ep
	e.mu.Unlock()
	p := eventOf(it)
	if !e.lease.valid(time.Now()) {
		e.mu.Lock()
		e.closing = true // the term is over; another node may deliver already
		t.Abandon(it)
		e.mu.Unlock()
		return
	}
	a, r := e.sender.send(e.ctx, ep, p, it.Attempt)
	if e.ctx.Err() != nil && !r.OK {
		e.mu.Lock()
		t.Abandon(it) // cut off by our own stop; not the endpoint's failure
		e.mu.Unlock()
		return
	}
	if it.First.IsZero() {
		it.First = a.At
	}
	e.finish(t, it, a, r)
}

// finish records the outcome of an attempt: first the retry, if there is one,
// then the journal, then the acknowledgement.
func (e *engine) finish(t *track, it lane.Item, a Attempt, r lane.Result) {
	now := time.Now()
	e.mu.Lock()
	failing := !t.FailingSince().IsZero()
	d := t.Finish(it, r, lane.Moment{Head: e.head, Now: now, Rnd: rand.Float64()})
	e.note(t, &a, d, now)
	switch {
	case !r.OK && !failing:
		e.Log.Warn("webhook endpoint fails", "endpoint", a.Webhook, "err", a.Error)
	case r.OK && failing:
		e.Log.Info("webhook endpoint works again", "endpoint", a.Webhook)
	}
	e.mu.Unlock()
	e.metrics.attempts.WithLabelValues(result(d.Verdict), statusClass(a.Status)).Inc()
	e.postpone(d.Due, d.At)

	again, _ := it.Ref.(*due)
	switch d.Verdict {
	case lane.Retry:
		rec := retryRecord{
			Endpoint: a.Webhook, Seq: it.Seq, Event: a.Event, Subject: a.Subject,
			Attempt: it.Attempt + 1, First: it.First, Code: a.Status,
		}
		if e.retries.put(e.ctx, rec, d.At) != nil {
			return // neither journaled nor settled: the stream delivers it again
		}
		if again == nil {
			e.mu.Lock()
			t.Stored(1)
			e.mu.Unlock()
		}
	case lane.Held:
		if again != nil && e.retries.put(e.ctx, again.rec, d.At) != nil {
			return
		}
	case lane.Dead:
		e.metrics.lost.WithLabelValues(deadReason(r)).Inc()
		e.Log.Warn("webhook event given up", "endpoint", a.Webhook, "event_id", a.Event,
			"seq", it.Seq, "attempt", it.Attempt, "reason", deadReason(r), "err", a.Error)
	case lane.Delivered:
	}
	e.journal.add(a, func() { e.settle(t, it, d.Verdict) })
}

// note keeps the outcome for people and marks what must be stored. The caller
// holds mu.
func (e *engine) note(t *track, a *Attempt, d lane.Decision, now time.Time) {
	a.Verdict = d.Verdict
	if d.Verdict == lane.Retry {
		a.Next = d.At.UTC()
	}
	t.last = *a
	if d.Verdict == lane.Delivered {
		t.delivered++
	} else {
		t.failed++
	}
	if d.Verdict == lane.Dead {
		t.state.Dead++
		t.state.LastDead = &deadNote{Event: a.Event, Seq: a.Seq, Reason: a.Error, At: a.At}
		d.Changed = true
	}
	if d.Disabled {
		t.state.Reason = "failing since " + t.FailingSince().UTC().Format(time.RFC3339) + ", last: " + a.Error
		if a.Status == 410 {
			t.state.Reason = "the receiver answered 410 Gone"
		}
		e.Log.Warn("webhook endpoint disabled", "endpoint", a.Webhook, "reason", t.state.Reason)
	}
	if d.Changed {
		e.markDirty(t)
		e.wakeLater(t, now)
	}
}

func result(v lane.Verdict) string {
	if v == lane.Delivered {
		return "delivered"
	}
	return "failed"
}

func deadReason(r lane.Result) string {
	if r.Abort {
		return "aborted"
	}
	return "exhausted"
}

// settle runs when the attempt is stored. The caller holds mu.
func (e *engine) settle(t *track, it lane.Item, v lane.Verdict) {
	if again, ok := it.Ref.(*due); ok {
		_ = again.msg.Ack() // if lost, it falls due again and recovered or a new attempt settles it
		if v != lane.Retry && v != lane.Held {
			t.Stored(-1)
		}
		return
	}
	if v == lane.Held {
		return
	}
	t.Settle(it)
	e.release(t, it.Seq)
}

// settleAll runs the callbacks of a stored batch.
func (e *engine) settleAll(batch []func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range batch {
		f()
	}
}

// release ends a lane's need for an event. The caller holds mu.
func (e *engine) release(t *track, seq uint64) {
	f := t.holds[seq]
	if f == nil {
		return
	}
	delete(t.holds, seq)
	if f.n--; f.n > 0 {
		return
	}
	delete(e.flights, seq)
	e.held -= len(f.d.Data)
	e.recent.add(seq)
	if err := f.d.Ack(); err != nil {
		e.Log.Debug("webhook event not acknowledged", "seq", seq, "err", err) // comes again; recent answers
	}
}
