// Package run starts and stops the services of one process in order.
// It makes no compatibility promise.
package run

import (
	"context"
	"errors"
	"fmt"
)

// Service does its work in Run until ctx ends, then drains; nil means clean.
type Service interface {
	Run(ctx context.Context) error
}

// Readier is a service that others must wait for. Ready is closed once.
type Readier interface {
	Ready() <-chan struct{}
}

// Func is a service without a type of its own.
type Func func(ctx context.Context) error

// Run calls f.
func (f Func) Run(ctx context.Context) error { return f(ctx) }

// Named gives a service a name for errors, also for ending early.
func Named(name string, s Service) Service { return named{name, s} }

type named struct {
	name string
	Service
}

func (n named) Run(ctx context.Context) error {
	err := n.Service.Run(ctx)
	if err == nil && ctx.Err() == nil {
		err = errEarly
	}
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	return nil
}

// Ready passes the inner service's readiness on; a service without one is
// ready at once.
func (n named) Ready() <-chan struct{} {
	if r, ok := n.Service.(Readier); ok {
		return r.Ready()
	}
	return closed
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Stack runs services from the first (bottom) to the last (top). It waits for
// each Readier before it starts the next. When ctx ends or any service returns,
// it stops them from top to bottom, one at a time, so that what a service
// stands on outlives it. The result joins their errors; a service that ends
// early without one is an error too. That a service was interrupted, such as in
// its start, by being asked to stop is none.
func Stack(ctx context.Context, services ...Service) error {
	s := stack{fell: make(chan struct{}, len(services))}
	for _, svc := range services {
		if !s.start(ctx, svc) {
			break
		}
	}
	select {
	case <-ctx.Done():
	case <-s.fell:
	}
	return s.stop(ctx)
}

var errEarly = errors.New("ended before it was asked to")

type stack struct {
	fell  chan struct{} // one entry for each service that returned
	stops []func(early bool) error
}

// start reports whether the next service may start.
func (s *stack) start(ctx context.Context, svc Service) bool {
	if ctx.Err() != nil {
		return false
	}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx)) // not all cancelled at once
	done := make(chan error, 1)
	go func() { // ends when Run returns; stop waits for it
		done <- svc.Run(own)
		s.fell <- struct{}{}
	}()
	s.stops = append(s.stops, func(early bool) error {
		select {
		case err := <-done:
			cancel()
			switch {
			case early && err == nil:
				return fmt.Errorf("a service %w", errEarly)
			case !early && errors.Is(err, errEarly):
				return nil
			}
			return err
		default:
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	r, ok := svc.(Readier)
	if !ok {
		return true
	}
	select {
	case <-r.Ready():
		return true
	case <-ctx.Done():
		return false
	case <-s.fell:
		s.fell <- struct{}{} // for Stack's own wait
		return false
	}
}

func (s *stack) stop(ctx context.Context) error {
	early := ctx.Err() == nil
	var errs []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		errs = append(errs, s.stops[i](early))
	}
	return errors.Join(errs...)
}
