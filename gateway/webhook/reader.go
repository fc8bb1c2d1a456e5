package webhook

import (
	"slices"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook/lane"
	"weft.dev/weft/internal/bus"
)

// read starts the reader of a lagging lane, or lets the lane be live if there
// is nothing to read. The caller holds mu.
func (e *engine) read(t *track, now time.Time) {
	if e.closing || e.idle || t.gone || t.reading || t.Mode() != lane.Lagging {
		return
	}
	if e.meet(t, now) {
		return
	}
	if after, _, ok := t.Wants(now); ok && after < e.head {
		t.reading = true
		e.wg.Go(func() { e.reader(t) }) // ends when the lane is live, full or paused
	}
}

func (e *engine) meet(t *track, now time.Time) bool {
	if !t.Meet(e.head, now) {
		return false
	}
	if t.Snapshot(e.head).Mode != t.saved.Mode {
		e.markDirty(t)
	}
	return true
}

// reader pages through the stream for one lane.
func (e *engine) reader(t *track) {
	for {
		now := time.Now()
		e.mu.Lock()
		after, n, ok := t.Wants(now)
		if e.closing || e.idle || t.gone || e.meet(t, now) || !ok || after >= e.head {
			t.reading = false
			e.mu.Unlock()
			return
		}
		head, ep := e.head, t.ep
		e.mu.Unlock()
		select {
		case e.readers <- struct{}{}:
		case <-e.ctx.Done():
			continue // closing is set
		}
		events, upTo, err := e.readPages(ep.Subjects, bus.PageConfig{After: after, UpTo: head, Max: n})
		<-e.readers
		if err != nil {
			e.Log.Warn("webhook events not read yet", "endpoint", ep.ID, "err", err)
			pause(e.ctx, time.Second)
			continue
		}
		e.feed(t, after, events, upTo)
	}
}

func (e *engine) feed(t *track, after uint64, events []event.Stored, upTo uint64) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	items := make([]lane.Item, 0, len(events))
	for _, ev := range events {
		if t.recovered[ev.Seq] > 0 || ev.Seq <= t.ep.After && t.ep.Replay == nil {
			e.release(t, ev.Seq)
			continue
		}
		items = append(items, lane.Item{Seq: ev.Seq, Attempt: 1, Ref: newPayload(ev)})
	}
	t.Feed(after, items, upTo, now)
	e.work(t, now)
}

// readPages reads one page over all patterns, ascending and each event once.
// upTo is how far all of them were looked at.
func (e *engine) readPages(patterns []string, cfg bus.PageConfig) (events []event.Stored, upTo uint64, err error) {
	upTo = cfg.UpTo
	for _, p := range patterns {
		cfg.Pattern = p
		part, next, err := e.Source.Page(e.ctx, cfg)
		if err != nil {
			return nil, 0, err
		}
		events, upTo = append(events, part...), min(upTo, next)
	}
	if len(patterns) > 1 {
		slices.SortFunc(events, func(a, b event.Stored) int { return int(int64(a.Seq) - int64(b.Seq)) })
		events = slices.CompactFunc(events, func(a, b event.Stored) bool { return a.Seq == b.Seq })
	}
	for len(events) > 0 && events[len(events)-1].Seq > upTo {
		events = events[:len(events)-1]
	}
	return events, upTo, nil
}
