package event

import (
	"maps"
	"strconv"
	"strings"
)

// Extension attributes with a meaning in Weft.
const (
	ExtCorrelationID = "correlationid" // CloudEvents correlation extension
	ExtCausationID   = "causationid"   // CloudEvents correlation extension: id of the event that caused this one
	ExtTraceparent   = "traceparent"   // W3C: the starting trace context, never rewritten per hop
	ExtTracestate    = "tracestate"
	ExtPartitionKey  = "partitionkey"
	ExtDepth         = "weftdepth" // how many events lie between this one and the first of its flow
	ExtPath          = "weftpath"  // bridges passed, comma-separated
	// ExtSubject is the Weft subject of a delivered event where it is not its type.
	ExtSubject = "weftsubject"
)

// Cause is what is known of the event that caused another one.
type Cause struct {
	ID            string
	CorrelationID string
	Depth         int
}

// CauseOf is the event's own description as a cause of later ones.
func CauseOf(e Event) Cause {
	return Cause{ID: e.ID, CorrelationID: e.CorrelationID(), Depth: e.Depth()}
}

// Correlate fills correlationid, causationid and weftdepth where the producer
// left them out: the producer's own value, else the cause's, else the business
// key, else the trace id.
func (e *Event) Correlate(cause Cause, businessKey, traceID string) {
	if e.Extensions[ExtCausationID] == "" && cause.ID != "" {
		e.SetExtension(ExtCausationID, cause.ID)
	}
	if e.Extensions[ExtDepth] == "" && cause.ID != "" {
		e.SetExtension(ExtDepth, strconv.Itoa(cause.Depth+1))
	}
	if e.Extensions[ExtCorrelationID] != "" {
		return
	}
	for _, id := range [...]string{cause.CorrelationID, businessKey, traceID} {
		if id != "" {
			e.SetExtension(ExtCorrelationID, id)
			return
		}
	}
}

// CorrelationID groups all events of one business flow; empty if unknown.
func (e Event) CorrelationID() string { return e.Extensions[ExtCorrelationID] }

// CausationID is the id of the event that caused this one; empty if unknown.
func (e Event) CausationID() string { return e.Extensions[ExtCausationID] }

// Depth is the causation depth, 0 for the first event of a flow.
func (e Event) Depth() int {
	n, err := strconv.Atoi(e.Extensions[ExtDepth])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Traceparent is the W3C context in which the event was created, or empty.
func (e Event) Traceparent() string { return e.Extensions[ExtTraceparent] }

// Delivered is the event as a reader gets it: with its Weft subject where the
// type does not say it. The reader's event shares no extensions with e.
func (s Stored) Delivered() Stored {
	had := s.Extensions[ExtSubject]
	want := s.Path
	if want == s.Type {
		want = ""
	}
	if had == want {
		return s
	}
	s.Extensions = maps.Clone(s.Extensions)
	s.SetExtension(ExtSubject, want)
	return s
}

// Path lists the bridges the event has passed, oldest first.
func (e Event) Path() []string {
	p := e.Extensions[ExtPath]
	if p == "" {
		return nil
	}
	return strings.Split(p, ",")
}
