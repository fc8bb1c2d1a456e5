package run_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"weft.dev/weft/internal/run"
)

// recorder is a service that notes when it starts and stops.
type recorder struct {
	name  string
	notes *[]string
	ready chan struct{}
	fail  error
}

func (r *recorder) Ready() <-chan struct{} { return r.ready }

func (r *recorder) Run(ctx context.Context) error {
	*r.notes = append(*r.notes, "start "+r.name)
	close(r.ready)
	if r.fail != nil {
		return r.fail
	}
	<-ctx.Done()
	*r.notes = append(*r.notes, "stop "+r.name)
	return nil
}

func TestStackStartsUpAndStopsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var notes []string
		a := &recorder{name: "a", notes: &notes, ready: make(chan struct{})}
		b := &recorder{name: "b", notes: &notes, ready: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- run.Stack(ctx, a, b) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []string{"start a", "start b", "stop b", "stop a"}
		if !slices.Equal(notes, want) {
			t.Errorf("order = %v, want %v", notes, want)
		}
	})
}

func TestStackEndsWhenAServiceFails(t *testing.T) {
	tests := []struct {
		name string
		fail error
		want string
	}{
		{"with an error", errors.New("disk gone"), "b: disk gone"},
		{"without one", nil, "ended before it was asked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var notes []string
			a := &recorder{name: "a", notes: &notes, ready: make(chan struct{})}
			b := run.Named("b", run.Func(func(context.Context) error { return tt.fail }))
			err := run.Stack(t.Context(), a, b)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
			if want := []string{"start a", "stop a"}; !slices.Equal(notes, want) {
				t.Errorf("order = %v, want %v", notes, want)
			}
		})
	}
}
