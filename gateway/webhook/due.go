package webhook

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/gateway/webhook/lane"
	"weft.dev/weft/internal/bus"
)

// due is a retry that fell due.
type due struct {
	*payload // nil until read
	rec      retryRecord
	msg      jetstream.Msg
}

// postpone stores due retries anew, without counting an attempt.
func (e *engine) postpone(items []lane.Item, at time.Time) {
	if len(items) == 0 {
		return
	}
	e.wg.Go(func() {
		for _, it := range items {
			d, ok := it.Ref.(*due)
			if ok && e.retries.put(e.ctx, d.rec, at) == nil {
				_ = d.msg.Ack() // else it comes again after dueAckWait
			}
		}
	})
}

// fallDue takes a retry whose time has come.
func (e *engine) fallDue(rec retryRecord, msg jetstream.Msg) {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		return // comes again after dueAckWait
	}
	e.wg.Add(1) // the library does not wait for its callbacks
	defer e.wg.Done()
	t := e.tracks[rec.Endpoint]
	done := t != nil && t.recovered[rec.Seq] >= rec.Attempt
	e.mu.Unlock()
	switch {
	case done:
		_ = msg.Ack() // before the term began
		return
	case t == nil:
		e.orphan(rec, msg)
		return
	}
	events, _, err := e.Source.Page(e.ctx, bus.PageConfig{Pattern: rec.Subject, After: rec.Seq - 1, UpTo: rec.Seq, Max: 1})
	switch {
	case err != nil:
		_ = msg.NakWithDelay(storeWait)
		return
	case len(events) == 0 && !e.expired(rec, msg):
		_ = msg.NakWithDelay(storeWait) // a replica may be behind
		return
	case len(events) == 0:
		e.expire(t, rec, msg)
		return
	}
	d := &due{payload: newPayload(events[0]), rec: rec, msg: msg}
	now := time.Now()
	e.mu.Lock()
	it := lane.Item{Seq: rec.Seq, Attempt: rec.Attempt, First: rec.First, Ref: d}
	later, ok := t.Due(it, now, rand.Float64())
	if ok {
		e.work(t, now)
	}
	e.mu.Unlock()
	if !ok {
		e.postpone([]lane.Item{it}, later)
	}
}

// orphan takes a retry of an endpoint that this node does not know: a deleted
// one. One that it has not heard of yet, or cannot read, keeps its retries.
func (e *engine) orphan(rec retryRecord, msg jetstream.Msg) {
	if _, err := e.st.get(e.ctx, rec.Endpoint); errors.Is(err, errNotFound) {
		_ = msg.Ack()
		return
	}
	_ = msg.NakWithDelay(storeWait)
}

// expired tells an event that retention took, or that was purged, from one that
// could not be read.
func (e *engine) expired(rec retryRecord, msg jetstream.Msg) bool {
	const tries = 5
	if info, err := e.Source.Info(e.ctx); err == nil && rec.Seq < info.First {
		return true
	}
	md, err := msg.Metadata()
	return err == nil && md.NumDelivered >= tries
}

// expire gives a retry up because retention has taken its event.
func (e *engine) expire(t *track, rec retryRecord, msg jetstream.Msg) {
	e.metrics.lost.WithLabelValues("expired").Inc()
	e.Log.Warn("webhook event expired before it was delivered", "endpoint", rec.Endpoint, "event_id", rec.Event, "seq", rec.Seq)
	now := time.Now().UTC()
	a := Attempt{
		Webhook: rec.Endpoint, Event: rec.Event, Subject: rec.Subject, Seq: rec.Seq, Attempt: rec.Attempt,
		At: now, Error: "the event has left the stream by its retention", Verdict: lane.Dead,
	}
	e.mu.Lock()
	t.state.Dead++
	t.state.LastDead = &deadNote{Event: rec.Event, Seq: rec.Seq, Reason: a.Error, At: now}
	e.markDirty(t)
	e.mu.Unlock()
	e.journal.add(a, func() {
		t.Stored(-1)
		_ = msg.Ack()
	})
}
