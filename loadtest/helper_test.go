package loadtest_test

import (
	"context"
	"testing"
)

// runUntilEnd runs a service until the test ends, before its directories go.
func runUntilEnd(t *testing.T, run func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }() // ends with cancel in the clean-up
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("service: %v", err)
		}
	})
}
