package snsfake

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// Fault makes the next calls of one action go wrong.
type Fault struct {
	Action string // PublishBatch, ReceiveMessage, DeleteMessageBatch, ...
	Times  int    // calls to spoil; 0 means 1
	Code   string // error code; default InternalError (SNS) or the entry's error
	Status int    // default 500; 0 with Entries fails only those entries
	// Entries are the positions of a batch that fail while the others succeed.
	Entries     []int
	SenderFault bool          // with Entries: the caller's fault, a retry is useless
	AfterEffect bool          // the call takes effect, then the connection breaks
	Delay       time.Duration // the call is slow and then goes on
}

// Fail arms a fault. Faults of one action fire in the order they were armed.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Times = max(f.Times, 1)
	s.faults = append(s.faults, &f)
}

// begin counts a call and takes the fault it meets, if any.
func (s *Server) begin(action string) (f Fault, hit bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[action]++
	i := slices.IndexFunc(s.faults, func(f *Fault) bool { return f.Action == action })
	if i < 0 {
		return Fault{}, false
	}
	f = *s.faults[i]
	if s.faults[i].Times--; s.faults[i].Times == 0 {
		s.faults = slices.Delete(s.faults, i, i+1)
	}
	return f, true
}

// refuse is the error of the whole call, or nil if the call goes on.
func (f Fault) refuse(ctx context.Context) error {
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-ctx.Done():
		}
	}
	if len(f.Entries) > 0 || f.AfterEffect || (f.Delay > 0 && f.Code == "") {
		return nil
	}
	e := &apiError{Status: f.Status, Code: f.Code, Message: "injected"}
	if e.Status == 0 {
		e.Status = http.StatusInternalServerError
	}
	if e.Code == "" {
		e.Code = "InternalError"
	}
	return e
}

// entry is the failure of one entry of a batch, if the fault names it.
func (f Fault) entry(i int) (failure, bool) {
	if !slices.Contains(f.Entries, i) {
		return failure{}, false
	}
	code := f.Code
	if code == "" {
		code = "InternalError"
	}
	return failure{Code: code, Message: "injected", SenderFault: f.SenderFault}, true
}

// failure is an entry of a batch answer's Failed list.
type failure struct {
	ID          string `xml:"Id" json:"Id"`
	Code        string `xml:"Code" json:"Code"`
	Message     string `xml:"Message" json:"Message"`
	SenderFault bool   `xml:"SenderFault" json:"SenderFault"`
}

// cut breaks the connection without an answer.
func cut() { panic(http.ErrAbortHandler) }
