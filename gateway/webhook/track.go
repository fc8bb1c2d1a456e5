package webhook

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"weft.dev/weft/gateway/webhook/lane"
)

// track is what the engine knows of one endpoint.
type track struct {
	*lane.Lane
	ep        *endpoint
	state     state      // as it should be stored, less the lane's part
	saved     lane.State // as last stored
	covers    bool       // saved is certain and holds a cursor
	saving    bool       // a put is under way
	dirty     bool       // is in engine.dirty
	gone      bool       // deleted; what still runs is dropped
	reading   bool       // a reader runs
	holds     map[uint64]*flight
	recovered map[uint64]int // settled before the term began: attempts by sequence
	savedAt   time.Time
	timer     *time.Timer // wakes it after a pause
	last      Attempt
	delivered uint64
	failed    uint64
	offered   uint64 // last sequence offered, against a second pattern that matches
}

// add makes the track of an endpoint. One that was live reads on from floor: it
// finds there what was in flight when the last term ended, and recovered says
// what of that is done. The caller holds mu.
func (e *engine) add(ep *endpoint, s state, known bool, floor uint64) *track {
	t := &track{ep: ep, state: s, holds: map[uint64]*flight{}}
	start := s.State
	switch {
	case !known:
		start = lane.State{Mode: lane.Lagging, Cursor: ep.After}
	case start.Mode == lane.Live:
		start.Mode, start.Cursor = lane.Lagging, max(floor, ep.After)
		t.saved = s.State
	default:
		t.saved, t.covers = s.State, true
	}
	t.Lane = lane.New(e.limits, start)
	e.tracks[ep.ID] = t
	e.index.stale = true
	signal(e.counted)
	return t
}

// changed is told of each endpoint that is new, changed or (nil) deleted.
func (e *engine) changed(old, ep *endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return
	}
	now := time.Now()
	if ep == nil {
		e.drop(e.tracks[old.ID])
		return
	}
	t := e.tracks[ep.ID]
	if t == nil {
		t = e.add(ep, state{}, false, 0)
		e.markDirty(t)
	}
	if !slices.Equal(t.ep.Subjects, ep.Subjects) {
		e.index.stale = true
	}
	t.ep = ep
	e.reconcile(t, now)
}

func (e *engine) drop(t *track) {
	if t == nil {
		return
	}
	t.gone = true
	delete(e.tracks, t.ep.ID)
	e.index.stale = true
	signal(e.counted)
	if t.timer != nil {
		t.timer.Stop()
	}
	for _, seq := range t.held() {
		e.release(t, seq)
	}
}

// held lists the events that only this process holds for the lane.
func (t *track) held() []uint64 {
	seqs := make([]uint64, 0, len(t.holds))
	for seq := range t.holds {
		seqs = append(seqs, seq)
	}
	return seqs
}

// reconcile brings a lane to what its endpoint asks: disabled or not, replay.
// The caller holds mu.
func (e *engine) reconcile(t *track, now time.Time) {
	switch disabled := t.Mode() == lane.Disabled; {
	case t.ep.Disabled && !disabled:
		e.postpone(t.Disable(e.head), now.Add(15*time.Minute))
		t.state.Reason = "by the operator"
		e.markDirty(t)
	case !t.ep.Disabled && disabled && t.state.Enabled != t.ep.Enabled:
		t.Enable()
		t.state.Reason = ""
		e.markDirty(t)
	}
	t.state.Enabled = t.ep.Enabled
	if r := t.ep.Replay; r != nil && r.ID != t.state.ReplayID {
		t.state.ReplayID, t.recovered = r.ID, nil
		t.Rewind(r.After, e.head)
		e.markDirty(t)
		e.journal.add(Attempt{
			Webhook: t.ep.ID, Seq: r.After, At: now.UTC(), Verdict: verdictReplay, Event: r.ID,
		}, func() {})
	}
	e.wakeLater(t, now)
	e.read(t, now)
	e.work(t, now)
}

// wakeLater lets a paused lane go on when its pause is over. The caller holds mu.
func (e *engine) wakeLater(t *track, now time.Time) {
	until := t.Paused(now)
	if until.IsZero() || e.closing {
		return
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer = time.AfterFunc(until.Sub(now)+time.Millisecond, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.closing && !t.gone {
			e.read(t, time.Now())
			e.work(t, time.Now())
		}
	})
}

// markDirty has the track's state stored. The caller holds mu.
func (e *engine) markDirty(t *track) {
	if t.dirty || t.gone {
		return
	}
	t.dirty = true
	e.dirty = append(e.dirty, t)
	signal(e.keep)
}

// keeper stores dirty states until ctx ends.
func (e *engine) keeper(ctx context.Context) {
	for {
		select {
		case <-e.keep:
		case <-ctx.Done():
			return
		}
		for {
			t := e.nextDirty()
			if t == nil {
				break
			}
			if !e.save(ctx, t) && !pause(ctx, time.Second) {
				return
			}
		}
	}
}

// nextDirty takes a track whose state is not being stored right now.
func (e *engine) nextDirty() *track {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, t := range e.dirty {
		if !t.saving {
			e.dirty = slices.Delete(e.dirty, i, i+1)
			t.dirty, t.saving = false, true
			if len(e.dirty) > 0 {
				signal(e.keep) // another keeper may help
			}
			return t
		}
	}
	return nil
}

// save stores the state of one track; saving is set by the caller. A stored
// cursor covers every event after it, so holds end; a lane stored as live is
// covered by its holds alone, so those must exist before.
func (e *engine) save(ctx context.Context, t *track) bool {
	e.mu.Lock()
	s := t.state
	s.State = t.Snapshot(e.head)
	if s.Mode == lane.Live {
		t.covers = false
	}
	id, gone := t.ep.ID, t.gone
	e.mu.Unlock()
	var err error
	if !gone {
		var data []byte
		if data, err = json.Marshal(s); err == nil {
			_, err = e.st.state.Put(ctx, stateKey+id, data)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	t.saving = false
	if t.dirty {
		signal(e.keep)
	}
	if err != nil {
		t.covers = false
		e.markDirty(t)
		if ctx.Err() == nil {
			e.Log.Warn("webhook state not stored yet", "endpoint", id, "err", err)
		}
		return false
	}
	t.saved, t.savedAt, t.covers = s.State, time.Now(), s.Mode != lane.Live
	if t.covers && t.Mode() != lane.Live {
		for _, seq := range t.held() {
			e.release(t, seq)
		}
	}
	return true
}

// saveAll stores the cursors of a term that ends.
func (e *engine) saveAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	e.mu.Lock()
	var left []*track
	for _, t := range e.tracks {
		if t.Snapshot(e.head) != t.saved && !t.saving && t.Mode() != lane.Live {
			t.saving = true
			left = append(left, t)
		}
	}
	e.mu.Unlock()
	for _, t := range left {
		if !e.lease.valid(time.Now()) || !e.save(ctx, t) {
			return
		}
	}
}
