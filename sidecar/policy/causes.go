package policy

import (
	"time"

	"weft.dev/weft/event"
)

// TraceID and SpanID are W3C trace context ids.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// Causes remembers which event each call to the app carried, so that what the
// app publishes next can be tied to it. It is bounded by number and by age;
// the oldest call is forgotten first. It is not safe for concurrent use.
type Causes struct {
	limit  int
	ttl    time.Duration
	queue  []*call // oldest first
	spans  map[SpanID]*call
	traces map[TraceID][]*call
}

type call struct {
	trace  TraceID
	span   SpanID
	cause  event.Cause
	at     time.Time
	active bool
}

// NewCauses returns a memory of at most limit calls no older than ttl.
func NewCauses(limit int, ttl time.Duration) *Causes {
	return &Causes{limit: limit, ttl: ttl, spans: map[SpanID]*call{}, traces: map[TraceID][]*call{}}
}

// Begin remembers that a call with this context hands the cause to the app.
func (c *Causes) Begin(now time.Time, trace TraceID, span SpanID, cause event.Cause) {
	c.forget(now)
	if len(c.queue) >= c.limit {
		c.drop()
	}
	one := &call{trace: trace, span: span, cause: cause, at: now, active: true}
	c.queue = append(c.queue, one)
	c.spans[span] = one
	c.traces[trace] = append(c.traces[trace], one)
}

// End says that the call with this span has ended. It is still remembered: apps
// publish after they have answered, too.
func (c *Causes) End(span SpanID) {
	if one, ok := c.spans[span]; ok {
		one.active = false
	}
}

// Find returns the cause of an event that the app publishes in this context.
// The span of the call itself decides (the app copied the header). Else the
// app's tracing library made a span of its own in the same trace: then the one
// remembered call of that trace is the cause, or the one under way. Between
// several the answer is only what they agree on, the correlation id.
func (c *Causes) Find(now time.Time, trace TraceID, span SpanID) (event.Cause, bool) {
	c.forget(now)
	if one, ok := c.spans[span]; ok && one.trace == trace {
		return one.cause, true
	}
	calls := c.traces[trace]
	var active []*call
	for _, one := range calls {
		if one.active {
			active = append(active, one)
		}
	}
	if cause, same := agreed(active); same {
		return cause, true
	}
	return agreed(calls)
}

// agreed returns what is the same in the causes of all calls: the event itself,
// which may have been called with several times, or only its correlation id.
func agreed(calls []*call) (event.Cause, bool) {
	if len(calls) == 0 {
		return event.Cause{}, false
	}
	cause := calls[0].cause
	for _, one := range calls[1:] {
		if one.cause.CorrelationID != cause.CorrelationID {
			return event.Cause{}, false
		}
		if one.cause != cause {
			cause = event.Cause{CorrelationID: cause.CorrelationID}
		}
	}
	return cause, cause != event.Cause{}
}

// Len returns the number of calls remembered.
func (c *Causes) Len() int { return len(c.queue) }

func (c *Causes) forget(now time.Time) {
	for len(c.queue) > 0 && now.Sub(c.queue[0].at) >= c.ttl {
		c.drop()
	}
}

func (c *Causes) drop() {
	old := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	if c.spans[old.span] == old {
		delete(c.spans, old.span)
	}
	if rest := c.traces[old.trace]; len(rest) > 1 {
		c.traces[old.trace] = rest[1:] // calls of a trace are in the same order
	} else {
		delete(c.traces, old.trace)
	}
}
