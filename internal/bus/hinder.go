package bus

import (
	"errors"
	"fmt"
)

// ErrDiskFull: the node has no space for events. It comes with ErrUnavailable.
var ErrDiskFull = errors.New("the disk is full")

// hindrance is why publishes do not get through.
type hindrance struct {
	why    error
	refuse bool
}

// Hinder tells callers why their publishes fail, until it is called with nil.
// With refuse they are refused at once, else tried like any others.
func (b *Bus) Hinder(why error, refuse bool) {
	if why == nil {
		b.hindered.Store(nil)
		return
	}
	b.hindered.Store(&hindrance{why, refuse})
}

// refused is why publishes are refused at once; nil if they are not.
func (b *Bus) refused() error {
	if h := b.hindered.Load(); h != nil && h.refuse {
		return fmt.Errorf("%w: %w", ErrUnavailable, h.why)
	}
	return nil
}

// unstored is the error of a publish that is given up for its cause.
func (b *Bus) unstored(cause error) error {
	if h := b.hindered.Load(); h != nil {
		return fmt.Errorf("%w: %w: %w", ErrUnavailable, h.why, cause)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, cause)
}
