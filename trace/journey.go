package trace

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Filter picks recent journeys.
type Filter struct {
	Query  string `json:"query,omitempty"`  // an id, the start of one, or part of a span name; "" = all
	Errors bool   `json:"errors,omitempty"` // only journeys with a failed span
	Limit  int    `json:"limit,omitempty"`  // default 50, at most 500
}

func (f Filter) withDefaults() Filter {
	const usual, most = 50, 500
	if f.Limit <= 0 {
		f.Limit = usual
	}
	f.Limit = min(f.Limit, most)
	f.Query = strings.ToLower(strings.TrimSpace(f.Query))
	return f
}

// hits reports whether the query names the trace.
func (f Filter) hits(e *entry) bool {
	if strings.HasPrefix(e.id, f.Query) {
		return true
	}
	for id := range e.flows {
		if strings.Contains(strings.ToLower(id), f.Query) {
			return true
		}
	}
	for id := range e.events {
		if strings.HasPrefix(strings.ToLower(id), f.Query) {
			return true
		}
	}
	for _, s := range e.spans {
		if strings.Contains(strings.ToLower(s.Name), f.Query) {
			return true
		}
	}
	return false
}

// Summary is one line of the list of journeys.
type Summary struct {
	ID            string    `json:"id"` // correlation id, else trace id; asks for the journey
	TraceID       string    `json:"traceId"`
	CorrelationID string    `json:"correlationId,omitempty"`
	Name          string    `json:"name"` // of the first span
	Start         time.Time `json:"start"`
	End           time.Time `json:"end"`
	DurationMs    float64   `json:"durationMs"`
	Spans         int       `json:"spans"`
	Traces        int       `json:"traces"`
	Sites         []string  `json:"sites"`
	Services      []string  `json:"services"`
	Error         bool      `json:"error"`
	Shape         []Bar     `json:"shape"` // the journey in small, at most maxBars spans in order
	Root          bool      `json:"root"`  // the first span has no parent: the name is the journey's own
}

// Bar is one span of a journey drawn in small.
type Bar struct {
	At      int64  `json:"at"`  // microseconds after the journey's start
	For     int64  `json:"for"` // microseconds
	Service string `json:"service"`
	Error   bool   `json:"error,omitempty"`
}

// maxBars keeps a list of 500 journeys below about 1 MB.
const maxBars = 48

// bars draws spans in small. Of too many it leaves out what happens inside Weft first, then every so many.
func bars(spans []*Span, start time.Time) []Bar {
	if len(spans) > maxBars {
		spans = slices.DeleteFunc(slices.Clone(spans), func(s *Span) bool { return s.Kind == "internal" && s.Status != StatusError })
	}
	out := make([]Bar, 0, min(len(spans), maxBars))
	for i := range cap(out) {
		s := spans[i*len(spans)/cap(out)]
		out = append(out, Bar{
			At: s.Start.Sub(start).Microseconds(), For: s.Duration().Microseconds(),
			Service: s.Service, Error: s.Status == StatusError,
		})
	}
	return out
}

func newerFirst(a, b Summary) int {
	return cmp.Or(b.Start.Compare(a.Start), strings.Compare(a.ID, b.ID))
}

func summarize(flow string, group map[*entry]bool) Summary {
	var spans []*Span
	for e := range group {
		spans = slices.AppendSeq(spans, maps.Values(e.spans))
	}
	slices.SortFunc(spans, earlierFirst)
	first := first(spans)
	sum := Summary{
		ID: flow, TraceID: first.TraceID, Name: first.Name, Root: first.ParentID == "",
		Start: spans[0].Start, End: latest(spans), Spans: len(spans), Traces: len(group),
		Sites: distinct(spans, func(s *Span) string { return s.Site }), Services: distinct(spans, func(s *Span) string { return s.Service }),
		Error: slices.ContainsFunc(spans, func(s *Span) bool { return s.Status == StatusError }),
	}
	if flow != first.TraceID {
		sum.CorrelationID = flow
	}
	sum.DurationMs = millis(sum.End.Sub(sum.Start))
	sum.Shape = bars(spans, sum.Start)
	return sum
}

// merge puts what two sites know about the same journey together.
func merge(a, b Summary) Summary {
	first, later := a, b
	if b.Start.Before(a.Start) {
		first, later = b, a
	}
	out := first
	if later.Root && !first.Root {
		out.Name, out.TraceID, out.Root = later.Name, later.TraceID, true
	}
	if later.End.After(out.End) {
		out.End = later.End
	}
	out.DurationMs = millis(out.End.Sub(out.Start))
	out.Spans, out.Traces = a.Spans+b.Spans, max(a.Traces, b.Traces)
	out.Sites, out.Services = union(a.Sites, b.Sites), union(a.Services, b.Services)
	out.Error = a.Error || b.Error
	out.CorrelationID = cmp.Or(a.CorrelationID, b.CorrelationID)
	shift := later.Start.Sub(first.Start).Microseconds()
	out.Shape = slices.Clone(first.Shape)
	for _, bar := range later.Shape {
		bar.At += shift
		out.Shape = append(out.Shape, bar)
	}
	slices.SortStableFunc(out.Shape, func(x, y Bar) int { return cmp.Compare(x.At, y.At) })
	out.Shape = out.Shape[:min(len(out.Shape), maxBars)]
	return out
}

// Journey is everything the mesh knows about one flow of events.
type Journey struct {
	ID             string    `json:"id"` // as asked for
	Name           string    `json:"name"`
	TraceIDs       []string  `json:"traceIds"`
	CorrelationIDs []string  `json:"correlationIds"`
	Start          time.Time `json:"start"`
	End            time.Time `json:"end"`
	DurationMs     float64   `json:"durationMs"`
	Sites          []string  `json:"sites"`
	Services       []string  `json:"services"`
	Errors         int       `json:"errors"`
	Partial        bool      `json:"partial"`             // a site did not answer in time
	Silent         []string  `json:"silent,omitempty"`    // the sites that did not
	Truncated      bool      `json:"truncated,omitempty"` // there are more spans than one answer holds
	Rows           []Row     `json:"rows"`                // the spans as a tree, in drawing order
}

// NewJourney puts spans in order; nil if there are none.
func NewJourney(id string, spans []*Span) *Journey {
	if len(spans) == 0 {
		return nil
	}
	spans = slices.Clone(spans)
	slices.SortFunc(spans, earlierFirst)
	j := &Journey{
		ID: id, Name: first(spans).Name, Start: spans[0].Start, End: latest(spans),
		TraceIDs: distinct(spans, func(s *Span) string { return s.TraceID }),
		Sites:    distinct(spans, func(s *Span) string { return s.Site }), Services: distinct(spans, func(s *Span) string { return s.Service }),
		CorrelationIDs: distinct(spans, (*Span).CorrelationID),
		Rows:           Tree(spans),
	}
	j.DurationMs = millis(j.End.Sub(j.Start))
	for _, s := range spans {
		if s.Status == StatusError {
			j.Errors++
		}
	}
	return j
}

// first is the span a journey is named after: the earliest without a parent, else the earliest.
func first(spans []*Span) *Span {
	for _, s := range spans {
		if s.ParentID == "" {
			return s
		}
	}
	return spans[0]
}

func earlierFirst(a, b *Span) int {
	return cmp.Or(a.Start.Compare(b.Start), b.End.Compare(a.End), strings.Compare(a.SpanID, b.SpanID))
}

func latest(spans []*Span) time.Time {
	return slices.MaxFunc(spans, func(a, b *Span) int { return a.End.Compare(b.End) }).End
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// distinct lists the values of spans in order of appearance, without "".
func distinct(spans []*Span, of func(*Span) string) []string {
	out := []string{}
	seen := map[string]bool{"": true}
	for _, s := range spans {
		if v := of(s); !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, v := range b {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}
