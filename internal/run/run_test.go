package run_test

import (
	"context"
	"errors"
	"fmt"
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
		{"without one", nil, "b: ended before it was asked"},
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

// starting is a service that is interrupted before it is ready.
type starting struct{ fail error }

func (s starting) Ready() <-chan struct{} { return nil }

func (s starting) Run(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("make stream: %w", s.fail)
}

func TestStackInterruptedInItsStart(t *testing.T) {
	tests := []struct {
		name string
		fail error
		want string
	}{
		{"is no failure", context.Canceled, ""},
		{"tells what else went wrong", errors.New("disk gone"), "make stream: disk gone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- run.Stack(ctx, starting{tt.fail}) }()
				synctest.Wait()
				cancel()
				got := ""
				if err := <-done; err != nil {
					got = err.Error()
				}
				if got != tt.want {
					t.Errorf("error = %q, want %q", got, tt.want)
				}
			})
		})
	}
}
