package webhook

import (
	"context"
	"time"

	"weft.dev/weft/gateway/webhook/lane"
)

// sweep does what nobody else is woken for: lanes whose queue grew old, slow
// requests, checkpoints of cursors, metrics.
func (e *engine) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if n%40 == 0 {
			if info, err := e.Source.Info(ctx); err == nil {
				e.mu.Lock()
				e.first = info.First
				e.mu.Unlock()
			}
		}
		e.sweepTracks(time.Now())
		e.sweepFlights(time.Now())
	}
}

func (e *engine) sweepTracks(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return
	}
	states := map[string]int{"live": 0, "lagging": 0, "paused": 0, "disabled": 0}
	pending, oldest := 0, now
	for _, t := range e.tracks {
		if t.Tick(e.head, now) {
			e.markDirty(t)
		}
		cursor := t.Cursor(e.head)
		for seq := range t.holds {
			if seq <= cursor {
				e.release(t, seq)
			}
		}
		e.skipExpired(t)
		if s := t.Snapshot(e.head); s.Mode != t.saved.Mode || s.Cursor != t.saved.Cursor && now.Sub(t.savedAt) > checkpointEvery {
			e.markDirty(t)
		}
		if now.Sub(e.began) > recoveredFor && t.Mode() == lane.Live {
			t.recovered = nil // what was in flight has come again
		}
		e.read(t, now)
		e.work(t, now)
		states[t.word(now)]++
		waiting, running, stored := t.Load()
		pending += waiting + running + stored
		if at := t.waitingSince(); !at.IsZero() && at.Before(oldest) {
			oldest = at
		}
	}
	for k, n := range states {
		e.metrics.endpoints.WithLabelValues(k).Set(float64(n))
	}
	e.metrics.pending.Set(float64(pending))
	e.metrics.oldest.Set(now.Sub(oldest).Seconds())
}

// skipExpired moves a cursor over events that retention took, and counts them:
// at most so many matched the endpoint.
func (e *engine) skipExpired(t *track) {
	lost := t.Skip(e.first)
	if lost == 0 {
		return
	}
	t.state.Expired += lost
	e.metrics.lost.WithLabelValues("expired").Add(float64(lost))
	e.Log.Error("webhook events left the stream before they were sent", "endpoint", t.ep.ID, "positions", lost, "first", e.first)
	e.markDirty(t)
}

// word is the state people see.
func (t *track) word(now time.Time) string {
	if t.Mode() != lane.Disabled && !t.Paused(now).IsZero() {
		return "paused"
	}
	return string(t.Mode())
}

// waitingSince is since when the endpoint waits or fails; zero if it does not.
func (t *track) waitingSince() time.Time {
	if at := t.FailingSince(); !at.IsZero() {
		return at
	}
	return t.Oldest()
}

// sweepFlights tells the stream that held events are still worked on.
func (e *engine) sweepFlights(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.flights {
		if now.Sub(f.since) > progressAfter {
			f.since = now
			_ = f.d.InProgress() // if lost, the event comes again and is recognized
		}
	}
}
