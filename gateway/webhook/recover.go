package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/gateway/webhook/lane"
	"weft.dev/weft/internal/bus"
)

const (
	// recoverWindow is how far back the journal is read after a restart. What
	// is done but neither acknowledged nor behind a stored cursor is at most one
	// longest attempt and one checkpoint old.
	recoverWindow = maxTimeout + checkpointEvery + 25*time.Second
	// recoveredFor is how long the result is needed: what was in flight comes
	// again within dueAckWait.
	recoveredFor = dueAckWait + time.Minute

	// verdictReplay marks a replay in the journal.
	verdictReplay = lane.Verdict("replay")
)

// recover builds the tracks from what is stored: states, stored retries, and
// the journal's last minute.
func (e *engine) recover(ctx context.Context) error {
	info, err := e.Source.Info(ctx)
	if err != nil {
		return fmt.Errorf("recover webhooks: %w", err)
	}
	floor, err := e.ackFloor(ctx, info)
	if err != nil {
		return err
	}
	done, err := e.readJournal(ctx)
	if err != nil {
		return err
	}
	counts, err := e.countRetries(ctx)
	if err != nil {
		return err
	}
	eps, states := e.st.observe(e.changed)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for _, ep := range eps {
		if e.tracks[ep.ID] != nil {
			continue // changed has been called already
		}
		s, ok := states[ep.ID]
		t := e.add(ep, s, ok, floor)
		t.recovered = done[ep.ID]
		t.Stored(counts[ep.ID])
	}
	for _, t := range e.tracks {
		e.reconcile(t, now)
	}
	return nil
}

// ackFloor is the sequence up to which all events were acknowledged.
func (e *engine) ackFloor(ctx context.Context, info bus.StreamInfo) (uint64, error) {
	c, err := e.st.js.Consumer(ctx, bus.Stream, durableEvents)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return max(info.First, 1) - 1, nil // the first term, or the consumer was removed: at least once
	}
	if err != nil {
		return 0, fmt.Errorf("recover webhooks: %w", err)
	}
	return c.CachedInfo().AckFloor.Stream, nil
}

// readJournal returns what the last attempts before the term settled: per
// endpoint and sequence the highest attempt.
func (e *engine) readJournal(ctx context.Context) (map[string]map[uint64]int, error) {
	done := map[string]map[uint64]int{}
	last, err := e.st.attempts.GetLastMsgForSubject(ctx, subjectAttempts)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return done, nil
	}
	if err != nil {
		return nil, fmt.Errorf("recover webhooks: %w", err)
	}
	from := last.Time.Add(-recoverWindow)
	next := page{Start: &from, Batch: 256, MaxBytes: 8 << 20}
	for {
		batch, err := fetch(ctx, e.Conn, streamAttempts, next)
		if err != nil {
			return nil, fmt.Errorf("recover webhooks: %w", err)
		}
		for _, m := range batch {
			mark(done, m.data)
		}
		if len(batch) == 0 || batch[len(batch)-1].seq >= last.Sequence {
			return done, nil
		}
		next = page{Seq: batch[len(batch)-1].seq + 1, Batch: 256, MaxBytes: 8 << 20}
	}
}

func mark(done map[string]map[uint64]int, batch []byte) {
	var attempts []Attempt
	if json.Unmarshal(batch, &attempts) != nil {
		return // not ours
	}
	for _, a := range attempts {
		switch a.Verdict {
		case verdictReplay:
			delete(done, a.Webhook) // is to be sent again
		case lane.Delivered, lane.Retry, lane.Dead:
			if done[a.Webhook] == nil {
				done[a.Webhook] = map[uint64]int{}
			}
			done[a.Webhook][a.Seq] = max(done[a.Webhook][a.Seq], a.Attempt)
		case lane.Held:
		}
	}
}

func (e *engine) countRetries(ctx context.Context) (map[string]int, error) {
	info, err := e.st.retry.Info(ctx, jetstream.WithSubjectFilter(subjectStored+">"))
	if err != nil {
		return nil, fmt.Errorf("recover webhooks: %w", err)
	}
	counts := map[string]int{}
	for subject := range info.State.Subjects {
		id, _, _ := strings.Cut(subject[len(subjectStored):], ".")
		counts[id]++
	}
	return counts, nil
}
