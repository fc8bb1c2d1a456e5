// Package httpd is what every HTTP listener of Weft shares: problem answers
// (RFC 9457), a server that drains, and the publish endpoint in its four body
// forms. It routes nothing and knows no role. No compatibility promise.
package httpd

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
)

// ContentProblem is the media type of every error answer.
const ContentProblem = "application/problem+json"

// TypePrefix stands before the short name in a problem's type.
const TypePrefix = "https://weft.dev/problems/"

// Problem is an error as a client sees it (RFC 9457). As an error value it
// passes through ProblemOf unchanged, so that hooks can choose their answer.
type Problem struct {
	Type       string // short name such as "too-large"; written with TypePrefix
	Title      string // the same for every problem of a type; default: the status text
	Detail     string // what is wrong with this request and what was expected
	Status     int
	Field      string        // attribute, header or parameter at fault
	Limit      any           // the limit that was exceeded
	RetryAfter time.Duration // Retry-After, rounded up to seconds
}

// Error is the detail.
func (p Problem) Error() string {
	if p.Detail == "" {
		return p.title()
	}
	return p.Detail
}

func (p Problem) title() string {
	if p.Title == "" {
		return http.StatusText(p.Status)
	}
	return p.Title
}

// AppendJSON appends the problem as a JSON object.
func (p Problem) AppendJSON(b []byte) []byte {
	b = append(b, `{"type":`...)
	if p.Type == "" {
		b = append(b, `"about:blank"`...)
	} else {
		b = AppendString(b, TypePrefix+p.Type)
	}
	b = append(b, `,"title":`...)
	b = AppendString(b, p.title())
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	if p.Detail != "" {
		b = append(b, `,"detail":`...)
		b = AppendString(b, p.Detail)
	}
	if p.Field != "" {
		b = append(b, `,"field":`...)
		b = AppendString(b, p.Field)
	}
	if p.Limit != nil {
		if limit, err := json.Marshal(p.Limit); err == nil {
			b = append(b, `,"limit":`...)
			b = append(b, limit...)
		}
	}
	return append(b, '}')
}

// WriteProblem answers with p.
func WriteProblem(w http.ResponseWriter, p Problem) {
	if p.Status == 0 {
		p.Status = http.StatusInternalServerError
	}
	h := w.Header()
	h.Set("Content-Type", ContentProblem)
	h.Set("X-Content-Type-Options", "nosniff")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.AppendJSON(make([]byte, 0, 256))) // the client is gone: nothing to tell it
}

// ProblemOf is the answer for err: the caller's fault 400, 413 or 415 with the
// field and limit, a bus that cannot take the event 503, anything else 500
// without the cause, which belongs in the log.
func ProblemOf(err error) Problem {
	if p, ok := errors.AsType[Problem](err); ok {
		return p
	}
	if fe, ok := errors.AsType[*event.FieldError](err); ok {
		return fieldProblem(fe)
	}
	switch {
	case errors.Is(err, event.ErrRejected):
		return Problem{Type: "rejected", Title: "The request cannot be taken", Status: http.StatusBadRequest, Detail: err.Error()}
	case errors.Is(err, bus.ErrDiskFull):
		return Problem{
			Type: "disk-full", Title: "The node's disk is full", Status: http.StatusServiceUnavailable,
			Detail: "no event can be stored until its operator frees space; try again with the same id, or at another node", RetryAfter: 5 * time.Second,
		}
	case errors.Is(err, bus.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Problem{
			Type: "unavailable", Title: "The event could not be stored now", Status: http.StatusServiceUnavailable,
			Detail: "try again with the same id: a repeated event is stored once", RetryAfter: time.Second,
		}
	}
	return Problem{Type: "internal", Title: "The request failed inside Weft", Status: http.StatusInternalServerError}
}

func fieldProblem(fe *event.FieldError) Problem {
	p := Problem{
		Type: "invalid", Title: "The request holds an invalid value",
		Status: http.StatusBadRequest, Detail: fe.Error(), Field: fe.Field,
	}
	switch {
	case errors.Is(fe, event.ErrTooLarge):
		p.Type, p.Title, p.Status = "too-large", "The request exceeds a limit", http.StatusRequestEntityTooLarge
	case errors.Is(fe, event.ErrUnsupported):
		p.Type, p.Title, p.Status = "unsupported-media-type", "The form of the body is not one Weft reads", http.StatusUnsupportedMediaType
	}
	if fe.Limit > 0 {
		p.Limit = fe.Limit
	}
	return p
}
