package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/gateway/webhook/lane"
)

// subjectStatus is asked for the state of endpoints; the node that delivers
// answers. Request: a JSON array of endpoint ids. Answer: an object of Status
// by id.
const (
	subjectStatus = "weft.webhooks.status"
	statusWait    = 500 * time.Millisecond
	statusMax     = 200 // ids per request; the answer stays far below 1 MiB
)

// Status is how an endpoint is doing.
type Status struct {
	State        string    `json:"state"`            // live, lagging, paused or disabled
	Reason       string    `json:"reason,omitempty"` // why it is disabled, or what fails
	FailingSince time.Time `json:"failingSince,omitzero"`
	PausedUntil  time.Time `json:"pausedUntil,omitzero"`
	Cursor       uint64    `json:"cursor,omitempty"`  // settled up to here
	Behind       uint64    `json:"behind,omitempty"`  // positions of the stream after the cursor
	Waiting      int       `json:"waiting,omitempty"` // in memory
	InFlight     int       `json:"inFlight,omitempty"`
	Scheduled    int       `json:"scheduled,omitempty"` // stored retries
	Delivered    uint64    `json:"delivered"`           // since Node began to deliver
	Failed       uint64    `json:"failed"`              // attempts, since Node began to deliver
	Dead         uint64    `json:"dead"`                // events given up
	LastDead     *deadNote `json:"lastDead,omitempty"`
	Expired      uint64    `json:"expired,omitempty"`
	LastAttempt  *Attempt  `json:"lastAttempt,omitempty"`
	Node         string    `json:"node,omitempty"` // that delivers; empty if it did not answer
}

// answerStatus serves the status requests of other nodes during a term.
func (e *engine) answerStatus(nc *nats.Conn) (stop func(), err error) {
	sub, err := nc.Subscribe(subjectStatus, func(m *nats.Msg) {
		var ids []string
		if json.Unmarshal(m.Data, &ids) != nil || len(ids) > statusMax {
			return
		}
		data, err := json.Marshal(e.statuses(ids))
		if err == nil {
			_ = m.Respond(data) // the asking node falls back to what is stored
		}
	})
	if err != nil {
		return nil, fmt.Errorf("answer webhook status: %w", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

func (e *engine) statuses(ids []string) map[string]Status {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[string]Status, len(ids))
	for _, id := range ids {
		t := e.tracks[id]
		if t == nil {
			continue
		}
		s := storedStatus(t.state)
		s.State, s.Node = t.word(now), e.Deps.Node
		s.FailingSince, s.PausedUntil = t.FailingSince().UTC(), t.Paused(now).UTC()
		s.Waiting, s.InFlight, s.Scheduled = t.Load()
		s.Cursor = t.Cursor(e.head)
		s.Behind = e.head - min(e.head, s.Cursor)
		s.Delivered, s.Failed = t.delivered, t.failed
		if s.Reason == "" && !t.FailingSince().IsZero() {
			s.Reason = t.last.Error
		}
		if t.last.Webhook != "" {
			last := t.last
			s.LastAttempt = &last
		}
		out[id] = s
	}
	return out
}

// storedStatus is what the stored state tells.
func storedStatus(st state) Status {
	s := Status{
		State: string(st.Mode), Reason: st.Reason, Cursor: st.Cursor, FailingSince: st.FailingSince,
		PausedUntil: st.PausedUntil, Dead: st.Dead, LastDead: st.LastDead, Expired: st.Expired,
	}
	if s.State == "" {
		s.State = string(lane.Lagging) // not begun yet
	}
	return s
}

// statusOf asks the delivering node, or tells what is stored if it is silent.
func (s *Service) statusOf(ctx context.Context, st *stores, ids []string) map[string]Status {
	out := map[string]Status{}
	if e := s.engine.Load(); e != nil {
		out = e.statuses(ids)
	} else if req, err := json.Marshal(ids); err == nil {
		ctx, cancel := context.WithTimeout(ctx, statusWait)
		defer cancel()
		if m, err := s.Conn.RequestWithContext(ctx, subjectStatus, req); err == nil {
			_ = json.Unmarshal(m.Data, &out) // else what is stored
		}
	}
	for _, id := range ids {
		if _, ok := out[id]; !ok {
			known, _ := st.stateOf(id)
			out[id] = storedStatus(known)
		}
	}
	return out
}
