package trace

import (
	"container/list"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/prometheus/client_golang/prometheus"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// StoreConfig bounds what a Store keeps. Zero means the documented default.
type StoreConfig struct {
	MaxSpans int           // default 200,000
	MaxBytes int64         // estimated memory; default 256 MiB
	MaxAge   time.Duration // since the first span of a trace arrived; default 48 h
	MaxTrace int           // spans of one trace; later ones are refused; default 10,000
}

func (c StoreConfig) withDefaults() StoreConfig {
	if c.MaxSpans <= 0 {
		c.MaxSpans = 200_000
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 256 << 20
	}
	if c.MaxAge <= 0 {
		c.MaxAge = 48 * time.Hour
	}
	if c.MaxTrace <= 0 {
		c.MaxTrace = 10_000
	}
	return c
}

// Store keeps the site's recent spans in memory, whole traces at a time: at a limit the oldest trace goes first.
// It is an otlptrace.Client, so local providers, sidecars and OTLP receivers all feed it by UploadTraces.
type Store struct {
	cfg StoreConfig
	m   storeMetrics
	now func() time.Time

	mu      sync.RWMutex // guards everything below
	traces  map[string]*entry
	order   *list.List // of *entry, oldest first
	byFlow  index      // correlation id -> traces
	byEvent index      // event id -> traces
	spans   int
	bytes   int64
}

// entry is one trace in the store.
type entry struct {
	id     string
	spans  map[string]*Span
	flows  map[string]bool // correlation ids seen in it
	events map[string]bool // event ids seen in it
	bytes  int64
	at     time.Time // arrival of the first span
	place  *list.Element
}

// index finds traces by an id that is not the trace id.
type index map[string]map[*entry]bool

func (ix index) add(id string, e *entry) {
	if ix[id] == nil {
		ix[id] = map[*entry]bool{}
	}
	ix[id][e] = true
}

func (ix index) remove(id string, e *entry) {
	delete(ix[id], e)
	if len(ix[id]) == 0 {
		delete(ix, id)
	}
}

// NewStore makes an empty store and registers its metrics.
func NewStore(cfg StoreConfig, reg prometheus.Registerer) *Store {
	s := &Store{
		cfg: cfg.withDefaults(), now: time.Now,
		traces: map[string]*entry{}, order: list.New(), byFlow: index{}, byEvent: index{},
	}
	s.m = newStoreMetrics(reg, s)
	return s
}

// Start does nothing; it makes Store an otlptrace.Client.
func (s *Store) Start(context.Context) error { return nil }

// Stop does nothing; it makes Store an otlptrace.Client.
func (s *Store) Stop(context.Context) error { return nil }

// UploadTraces takes a batch of spans. It never fails: what does not fit is dropped and counted.
func (s *Store) UploadTraces(_ context.Context, batch []*tracepb.ResourceSpans) error {
	spans, invalid := Spans(batch)
	s.m.dropped.WithLabelValues("invalid").Add(float64(invalid))
	s.Add(spans)
	return nil
}

// Add keeps spans; a span that is already there is ignored. The store owns the spans from now on.
func (s *Store) Add(spans []*Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, span := range spans {
		s.add(span, now)
	}
	s.evict(now)
}

func (s *Store) add(span *Span, now time.Time) {
	e := s.traces[span.TraceID]
	if e == nil {
		e = &entry{id: span.TraceID, spans: map[string]*Span{}, flows: map[string]bool{}, events: map[string]bool{}, at: now}
		e.place = s.order.PushBack(e)
		s.traces[e.id] = e
	}
	if e.spans[span.SpanID] != nil {
		return
	}
	if len(e.spans) >= s.cfg.MaxTrace {
		s.m.dropped.WithLabelValues("trace_full").Inc()
		return
	}
	span.TraceID, span.Service, span.Site, span.Node = e.id, intern(span.Service), intern(span.Site), intern(span.Node)
	e.spans[span.SpanID] = span
	size := int64(span.size())
	e.bytes += size
	s.bytes += size
	s.spans++
	s.m.stored.Inc()
	if id := span.CorrelationID(); id != "" && !e.flows[id] {
		e.flows[id] = true
		s.byFlow.add(id, e)
	}
	for _, id := range []string{span.Attrs.Text(attrEventID), span.Attrs.Text(attrMessageID)} {
		if id != "" && !e.events[id] {
			e.events[id] = true
			s.byEvent.add(id, e)
		}
	}
}

// evict drops whole traces, oldest first, until every limit holds. The newest trace stays.
func (s *Store) evict(now time.Time) {
	for s.order.Len() > 0 {
		oldest := s.order.Front().Value.(*entry)
		reason := ""
		switch {
		case now.Sub(oldest.at) > s.cfg.MaxAge:
			reason = "age"
		case s.order.Len() == 1:
			return
		case s.spans > s.cfg.MaxSpans:
			reason = "spans"
		case s.bytes > s.cfg.MaxBytes:
			reason = "bytes"
		default:
			return
		}
		s.drop(oldest)
		s.m.dropped.WithLabelValues(reason).Add(float64(len(oldest.spans)))
	}
}

func (s *Store) drop(e *entry) {
	s.order.Remove(e.place)
	delete(s.traces, e.id)
	for id := range e.flows {
		s.byFlow.remove(id, e)
	}
	for id := range e.events {
		s.byEvent.remove(id, e)
	}
	s.spans -= len(e.spans)
	s.bytes -= e.bytes
}

// maxTraces bounds the traces one journey is put together from: a correlation id used as a constant must not
// pull in the whole store.
const maxTraces = 64

// Find returns the spans of every trace that one of ids names (trace id, correlation id or event id), together with
// the traces that share a correlation id with those. truncated tells that older traces were left out.
func (s *Store) Find(ids []string) (spans []*Span, truncated bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evict(s.now())
	found := map[*entry]bool{}
	for _, id := range ids {
		if e := s.traces[id]; e != nil {
			found[e] = true
		}
		maps.Copy(found, s.byFlow[id])
		maps.Copy(found, s.byEvent[id])
	}
	for e := range maps.Clone(found) {
		for flow := range e.flows {
			if len(found) <= maxTraces {
				maps.Copy(found, s.byFlow[flow])
			}
		}
	}
	entries := newestFirst(found)
	if len(entries) > maxTraces {
		entries, truncated = entries[:maxTraces], true
	}
	for _, e := range entries {
		spans = slices.AppendSeq(spans, maps.Values(e.spans))
	}
	return spans, truncated
}

func newestFirst(set map[*entry]bool) []*entry {
	entries := slices.Collect(maps.Keys(set))
	slices.SortFunc(entries, func(a, b *entry) int {
		if c := b.at.Compare(a.at); c != 0 {
			return c
		}
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return entries
}

// flow is the journey a trace is listed under: its smallest correlation id, else the trace id.
func (e *entry) flow() string {
	if len(e.flows) == 0 {
		return e.id
	}
	return slices.Min(slices.Collect(maps.Keys(e.flows)))
}

// Recent lists the newest journeys the filter lets through, newest first.
func (s *Store) Recent(f Filter) []Summary {
	f = f.withDefaults()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evict(s.now())
	seen := map[string]bool{}
	var out []Summary
	for at := s.order.Back(); at != nil && len(out) < f.Limit; at = at.Prev() {
		e := at.Value.(*entry)
		flow := e.flow()
		if seen[flow] {
			continue
		}
		seen[flow] = true
		group := s.byFlow[flow]
		if group == nil {
			group = map[*entry]bool{e: true}
		}
		if s.matches(f, group) {
			out = append(out, summarize(flow, group))
		}
	}
	slices.SortFunc(out, newerFirst)
	return out
}

func (s *Store) matches(f Filter, group map[*entry]bool) bool {
	if f.Query == "" && !f.Errors {
		return true
	}
	hit, failed := f.Query == "", !f.Errors
	for e := range group {
		hit = hit || f.hits(e)
		for _, span := range e.spans {
			failed = failed || span.Status == StatusError
		}
		if hit && failed {
			return true
		}
	}
	return false
}

// Stats is what the store holds now.
type Stats struct {
	Traces int           `json:"traces"`
	Spans  int           `json:"spans"`
	Bytes  int64         `json:"bytes"`
	Oldest time.Duration `json:"-"`
}

// Stats returns the store's size.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{Traces: len(s.traces), Spans: s.spans, Bytes: s.bytes}
	if front := s.order.Front(); front != nil {
		st.Oldest = s.now().Sub(front.Value.(*entry).at)
	}
	return st
}

// intern keeps one copy of strings that repeat in every span.
func intern(s string) string { return unique.Make(s).Value() }
