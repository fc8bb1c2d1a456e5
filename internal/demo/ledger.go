package demo

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"weft.dev/weft/event"
)

// A sink is one place that must see every accepted event whose subject matches.
type sink struct {
	Name     string
	Patterns []string
}

func (s sink) wants(subject string) bool {
	return slices.ContainsFunc(s.Patterns, func(p string) bool { return event.Match(p, subject) })
}

// SinkReport is the account of one sink.
type SinkReport struct {
	Sink       string  `json:"sink"`
	Subjects   string  `json:"subjects"`
	Published  int     `json:"published"`  // accepted events that the sink must see
	Delivered  int     `json:"delivered"`  // of those, seen at least once
	Duplicates int     `json:"duplicates"` // seen again
	Lost       int     `json:"lost"`       // not seen
	P50        float64 `json:"p50Ms"`      // accepted to seen, milliseconds
	P99        float64 `json:"p99Ms"`
}

const (
	settled     = time.Minute // an event every sink has seen is watched this long for duplicates, a foreign one for its 202
	maxEntries  = 200_000     // events under account; at the limit the ledger stops the demo's load
	maxLatency  = 60_000_000  // microseconds
	histDigits  = 3
	sweepPeriod = 1024 // new events between two sweeps
)

// ledger keeps the account of every accepted event at every sink. Its memory is
// bounded: an event that every sink has seen leaves it after a minute, and so does
// one that is not the demo's own, such as a visitor publishes.
type ledger struct {
	sinks []sink
	now   func() time.Time

	mu      sync.Mutex // guards what follows
	entries map[string]*entry
	tallies []tally
	total   int // accepted
	entered int
	changed chan struct{} // closed and replaced when the last missing sight arrives
}

type entry struct {
	noticed  time.Time
	accepted time.Time // zero until the 202 was read
	want     uint64    // bit per sink that must see it
	seen     uint64
	at       []time.Time // first sight per sink, until accepted is known
}

type tally struct {
	published, delivered, duplicates int
	latency                          *hdrhistogram.Histogram
}

func newLedger(sinks []sink, now func() time.Time) *ledger {
	l := &ledger{sinks: sinks, now: now, entries: make(map[string]*entry), tallies: make([]tally, len(sinks)), changed: make(chan struct{})}
	for i := range l.tallies {
		l.tallies[i].latency = hdrhistogram.New(1, maxLatency, histDigits)
	}
	return l
}

// accepted notes that the mesh answered 202 for the event, asked for at sent.
func (l *ledger) accepted(id, subject string, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(id)
	if !e.accepted.IsZero() {
		return // a retry of the same event
	}
	e.accepted = sent
	l.total++
	for i, s := range l.sinks {
		if !s.wants(subject) {
			continue
		}
		e.want |= 1 << i
		t := &l.tallies[i]
		t.published++
		if e.seen&(1<<i) != 0 {
			t.deliver(e.at[i].Sub(sent))
		}
	}
	l.notify(e)
}

// seen notes that a sink received the event.
func (l *ledger) seen(sinkIndex int, id string) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(id)
	bit := uint64(1) << sinkIndex
	if e.seen&bit != 0 {
		l.tallies[sinkIndex].duplicates++
		return
	}
	e.seen |= bit
	if e.accepted.IsZero() {
		e.at[sinkIndex] = now
		return
	}
	if e.want&bit != 0 {
		l.tallies[sinkIndex].deliver(now.Sub(e.accepted))
	}
	l.notify(e)
}

func (l *ledger) entry(id string) *entry {
	e := l.entries[id]
	if e == nil {
		if l.entered++; l.entered%sweepPeriod == 0 {
			l.sweep()
		}
		e = &entry{noticed: l.now(), at: make([]time.Time, len(l.sinks))}
		l.entries[id] = e
	}
	return e
}

func (t *tally) deliver(d time.Duration) {
	t.delivered++
	_ = t.latency.RecordValue(min(max(d.Microseconds(), 1), maxLatency)) // in range, so it cannot fail
}

func (l *ledger) notify(e *entry) {
	if e.want&^e.seen == 0 {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// sweep forgets events that every sink has seen long ago, and those that were
// not accepted in so long a time. Nothing owed is among them.
func (l *ledger) sweep() {
	old := l.now().Add(-settled)
	for id, e := range l.entries {
		if e.noticed.Before(old) && e.want&^e.seen == 0 {
			delete(l.entries, id)
		}
	}
}

// full reports whether the ledger is at its limit, so that no order may be
// placed until the sinks catch up.
func (l *ledger) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries) >= maxEntries
}

// missing counts the sights still owed, and returns a channel that is closed at
// the next progress.
func (l *ledger) missing() (int, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i := range l.tallies {
		n += l.tallies[i].published - l.tallies[i].delivered
	}
	return n, l.changed
}

// report is the account so far; what is still under way counts as lost.
func (l *ledger) report() (accepted int, sinks []SinkReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.sinks {
		t := &l.tallies[i]
		sinks = append(sinks, SinkReport{
			Sink: s.Name, Subjects: strings.Join(s.Patterns, " "),
			Published: t.published, Delivered: t.delivered, Duplicates: t.duplicates, Lost: t.published - t.delivered,
			P50: float64(t.latency.ValueAtQuantile(50)) / 1000,
			P99: float64(t.latency.ValueAtQuantile(99)) / 1000,
		})
	}
	return l.total, sinks
}
