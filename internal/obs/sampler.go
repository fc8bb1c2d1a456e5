package obs

import (
	"fmt"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/time/rate"
)

// Sampler decides which traces are kept. Of those that begin here it keeps a
// share (0 to 1, the same answer for the same trace id everywhere) and at most
// perSecond each second, so that a busy service neither spends its time on spans
// nor washes older traces out of the store; 0 is no limit. A trace that began
// elsewhere keeps the decision made there. Safe for concurrent use.
func Sampler(share float64, perSecond int) sdktrace.Sampler {
	root := sdktrace.TraceIDRatioBased(share)
	if perSecond > 0 {
		root = limited{root, rate.NewLimiter(rate.Limit(perSecond), perSecond)}
	}
	return sdktrace.ParentBased(root)
}

// limited lets at most so many of a sampler's traces through.
type limited struct {
	sdktrace.Sampler
	limit *rate.Limiter
}

// ShouldSample is part of sdktrace.Sampler.
func (l limited) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	r := l.Sampler.ShouldSample(p)
	if r.Decision == sdktrace.RecordAndSample && !l.limit.Allow() {
		r.Decision = sdktrace.Drop
	}
	return r
}

// Description is part of sdktrace.Sampler.
func (l limited) Description() string {
	return fmt.Sprintf("%s, at most %v/s", l.Sampler.Description(), l.limit.Limit())
}
