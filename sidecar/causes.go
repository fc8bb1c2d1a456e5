package sidecar

import (
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/sidecar/policy"
)

const (
	causeAge   = 2 * time.Minute // how long after a call began its app's publishes are tied to it
	causeLimit = 10_000          // calls remembered, some 300 bytes each
)

// causes shares the memory of calls between the subscriptions, which fill it,
// and the publish endpoint, which asks it.
type causes struct {
	mu     sync.Mutex // guards memory
	memory *policy.Causes
}

func newCauses(age time.Duration) *causes {
	return &causes{memory: policy.NewCauses(causeLimit, max(age, causeAge))}
}

func (c *causes) begin(sc trace.SpanContext, cause event.Cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.memory.Begin(time.Now(), policy.TraceID(sc.TraceID()), policy.SpanID(sc.SpanID()), cause)
}

func (c *causes) end(sc trace.SpanContext) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.memory.End(policy.SpanID(sc.SpanID()))
}

// find is the cause of what is published in the context sc; the zero Cause if
// it is not known.
func (c *causes) find(sc trace.SpanContext) event.Cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	cause, _ := c.memory.Find(time.Now(), policy.TraceID(sc.TraceID()), policy.SpanID(sc.SpanID()))
	return cause
}
