package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook/lane"
	"weft.dev/weft/internal/bus"
)

const (
	testSubject = "weft.webhook.test"

	attemptsDefault = 50
	attemptsMax     = 500
	// A call looks through so many stored batches at most; the answer says where
	// to go on.
	scanBatch, scanMax = 128, 128 * 40
)

// test sends a test event at once and answers with the attempt, whatever came
// of it. It counts neither for nor against the endpoint.
func (s *Service) test(_ http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	ep, err := st.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	now := time.Now()
	e := event.Event{
		DataContentType: "application/json",
		Data:            []byte(`{"webhook":"` + ep.ID + `","message":"This is a test of your webhook."}`),
	}
	e.Fill(event.Defaults{Subject: testSubject, Source: "/weft/" + s.Site, Now: now})
	a, result := s.sender.send(r.Context(), ep, newPayload(event.Stored{Event: e, Path: testSubject, Accepted: now}), 0)
	a.Verdict = lane.Dead
	if result.OK {
		a.Verdict = lane.Delivered
	}
	if data, err := json.Marshal([]Attempt{a}); err == nil {
		if _, err := st.js.Publish(r.Context(), subjectAttempts, data); err != nil {
			s.Deps.Log.WarnContext(r.Context(), "webhook test not logged", "endpoint", ep.ID, "err", err)
		}
	}
	return http.StatusOK, a, nil
}

// replay has every event after a cursor or time sent again.
func (s *Service) replay(w http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	c := struct {
		After *string `json:"after"` // cursor or stream sequence
		Since *string `json:"since"` // RFC 3339
	}{}
	if err := body(w, r, false, &c); err != nil {
		return 0, nil, err
	}
	if (c.After == nil) == (c.Since == nil) {
		return 0, nil, event.Reject("after", "either after (a cursor) or since (an RFC 3339 time)")
	}
	ep, err := st.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	info, err := s.Source.Info(r.Context())
	if err != nil {
		return 0, nil, err
	}
	var after uint64
	if c.After != nil {
		after, err = position(*c.After, info)
	} else {
		after, err = s.positionAt(r.Context(), *c.Since, info)
	}
	if err != nil {
		return 0, nil, err
	}
	after = max(after, max(info.First, 1)-1)
	ep.Replay, ep.Updated = &replay{ID: event.NewID(time.Now()), After: after}, time.Now().UTC()
	if err := st.put(r.Context(), ep); err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, map[string]any{"after": after, "upTo": info.Last}, nil
}

func position(text string, info bus.StreamInfo) (uint64, error) {
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		cur, err := event.ParseCursor(text)
		if err != nil {
			return 0, event.Reject("after", "a cursor as answered by publish, or a stream sequence")
		}
		if cur.Epoch != info.Epoch {
			return 0, event.Reject("after", "a cursor of the present stream; this one is of a stream made anew since")
		}
		seq = cur.Seq
	}
	if seq > info.Last {
		return 0, event.Reject("after", fmt.Sprintf("a position up to %d, the end of the stream", info.Last))
	}
	return seq, nil
}

func (s *Service) positionAt(ctx context.Context, text string, info bus.StreamInfo) (uint64, error) {
	since, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, event.Reject("since", "an RFC 3339 time such as 2026-01-02T15:04:05Z")
	}
	found, err := fetch(ctx, s.Conn, bus.Stream, page{Start: &since, NextFor: "ev.>", Batch: 1})
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return info.Last, nil
	}
	return found[0].seq - 1, nil
}

// attempts answers what was tried lately, newest first.
func (s *Service) attempts(_ http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	q := attemptQuery{limit: attemptsDefault}
	for name, into := range map[string]*uint64{"limit": &q.limit, "before": &q.before} {
		if text := r.URL.Query().Get(name); text != "" {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil || name == "limit" && (n < 1 || n > attemptsMax) {
				return 0, nil, event.Reject(name, fmt.Sprintf("a number; limit is 1 to %d", attemptsMax))
			}
			*into = n
		}
	}
	ep, err := st.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	q.id = ep.ID
	found, next, err := s.scan(r.Context(), st, q)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, struct {
		Attempts []Attempt `json:"attempts"`
		Before   uint64    `json:"before,omitempty"` // ask for older ones with it
	}{found, next}, nil
}

// attemptQuery asks for the attempts of one endpoint.
type attemptQuery struct {
	id     string
	limit  uint64
	before uint64 // position in the log; 0 is its end
}

// scan reads the attempt log backwards. It stops after the batch in which the
// limit is reached, so that a page never ends inside a batch.
func (s *Service) scan(ctx context.Context, st *stores, q attemptQuery) (found []Attempt, next uint64, err error) {
	found = []Attempt{}
	last, err := st.attempts.GetLastMsgForSubject(ctx, subjectAttempts)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return found, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read webhook attempts: %w", err)
	}
	high := last.Sequence
	if q.before > 0 {
		high = min(high, q.before-1)
	}
	needle := []byte(`"webhook":"` + q.id + `"`)
	for low := uint64(0); high > 0 && last.Sequence-high <= scanMax; high = low - 1 {
		low = max(high, scanBatch) - scanBatch + 1
		if high < scanBatch {
			low = 1
		}
		batch, err := fetch(ctx, s.Conn, streamAttempts, page{Seq: low, Batch: int(high - low + 1), MaxBytes: 16 << 20})
		if err != nil {
			return nil, 0, err
		}
		if len(batch) == 0 || batch[0].seq > high {
			return found, 0, nil // older ones have left the log
		}
		for _, m := range slices.Backward(batch) {
			if m.seq > high || !bytes.Contains(m.data, needle) {
				continue
			}
			found = append(found, attemptsOf(m.data, q.id)...)
			if uint64(len(found)) >= q.limit {
				return found, m.seq, nil
			}
		}
	}
	return found, high, nil
}

// attemptsOf are the attempts of one endpoint in a batch, newest first.
func attemptsOf(batch []byte, id string) []Attempt {
	var all []Attempt
	if json.Unmarshal(batch, &all) != nil {
		return nil // not ours
	}
	all = slices.DeleteFunc(all, func(a Attempt) bool { return a.Webhook != id })
	slices.Reverse(all)
	return all
}
