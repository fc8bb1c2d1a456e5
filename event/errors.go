package event

import "errors"

// Sentinels for what a caller decides on. Every FieldError is ErrRejected.
var (
	// ErrRejected: the event or request itself is at fault; do not retry it.
	ErrRejected = errors.New("rejected")
	// ErrTooLarge: a limit is exceeded (HTTP 413).
	ErrTooLarge = errors.New("too large")
	// ErrUnsupported: the form of the body is not one Weft reads (HTTP 415).
	ErrUnsupported = errors.New("unsupported")
)

// FieldError names the field at fault and what was expected there.
type FieldError struct {
	Field string // attribute, header or parameter name
	Want  string // what was expected, as a noun phrase
	Limit int    // the limit exceeded, 0 if none
	kind  error  // ErrTooLarge, ErrUnsupported or nil
}

// Error reads like `time: want an RFC 3339 time such as 2026-01-02T15:04:05Z`.
func (e *FieldError) Error() string { return e.Field + ": want " + e.Want }

// Unwrap makes every FieldError match ErrRejected, and its kind.
func (e *FieldError) Unwrap() []error {
	if e.kind == nil {
		return []error{ErrRejected}
	}
	return []error{ErrRejected, e.kind}
}

// Reject is the error for a field whose value cannot be taken.
func Reject(field, want string) error { return rejected(field, want) }

// TooLarge is the error for a field that exceeds a limit.
func TooLarge(field, want string, limit int) error { return tooLarge(field, want, limit) }

func rejected(field, want string) *FieldError { return &FieldError{Field: field, Want: want} }

func tooLarge(field, want string, limit int) *FieldError {
	return &FieldError{Field: field, Want: want, Limit: limit, kind: ErrTooLarge}
}

func unsupported(field, want string) *FieldError {
	return &FieldError{Field: field, Want: want, kind: ErrUnsupported}
}
