package bus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// A read goes on while nobody answers, with a fresh question each time, and ends
// with its patience, its caller or an answer.
func TestPatiently(t *testing.T) {
	other := errors.New("other")
	silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	nobody := func(context.Context) error { return nats.ErrNoResponders }
	tests := []struct {
		name   string
		caller time.Duration // how long the caller waits
		once   []func(context.Context) error
		want   error
		after  time.Duration
	}{
		{"answered", time.Minute, []func(context.Context) error{func(context.Context) error { return nil }}, nil, 0},
		{"refused", time.Minute, []func(context.Context) error{func(context.Context) error { return other }}, other, 0},
		{"at the third time", time.Minute, []func(context.Context) error{silent, nobody, func(context.Context) error { return nil }}, nil, 1500 * time.Millisecond},
		{"never", time.Minute, []func(context.Context) error{silent}, context.DeadlineExceeded, readPatience},
		{"nobody", time.Minute, []func(context.Context) error{nobody}, nats.ErrNoResponders, readPatience},
		{"caller leaves", 700 * time.Millisecond, []func(context.Context) error{silent}, context.DeadlineExceeded, 700 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.caller)
				defer cancel()
				start, tries := time.Now(), 0
				err := patiently(ctx, within(func(ctx context.Context) error {
					tries++
					return tt.once[min(tries, len(tt.once))-1](ctx)
				}))
				if !errors.Is(err, tt.want) || time.Since(start) != tt.after {
					t.Errorf("%v after %s, want %v after %s", err, time.Since(start), tt.want, tt.after)
				}
			})
		})
	}
}
