package bridgetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/dlq"
)

// Log is a source in memory: a lane is a list with a position.
type Log struct {
	Batch int // records in a batch; 0 means 1

	mu    sync.Mutex // guards everything below
	lanes map[string][]*driver.Record
	done  map[string]int
	more  chan struct{}
	runs  int
}

// NewLog returns an empty log.
func NewLog() *Log {
	return &Log{lanes: map[string][]*driver.Record{}, done: map[string]int{}, more: make(chan struct{})}
}

// Add appends records to a lane.
func (l *Log) Add(lane string, recs ...*driver.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lanes[lane] = append(l.lanes[lane], recs...)
	close(l.more)
	l.more = make(chan struct{})
}

// Done counts the settled records of all lanes.
func (l *Log) Done() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, d := range l.done {
		n += d
	}
	return n
}

// Runs counts how often the log was run.
func (l *Log) Runs() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runs
}

// Run implements driver.Source.
func (l *Log) Run(ctx context.Context, emit driver.Emit) error {
	l.mu.Lock()
	l.runs++
	at := maps.Clone(l.done)
	l.mu.Unlock()
	var work sync.WaitGroup
	defer work.Wait()
	for ctx.Err() == nil {
		lane, recs, more := l.next(at)
		if recs == nil {
			select {
			case <-ctx.Done():
			case <-more:
			}
			continue
		}
		at[lane] += len(recs)
		work.Add(1)
		err := emit(ctx, driver.Batch{Context: context.WithoutCancel(ctx), Lane: lane, Records: recs, Done: func(err error) {
			defer work.Done()
			l.mu.Lock()
			defer l.mu.Unlock()
			if err == nil {
				l.done[lane] += len(recs)
			}
		}})
		if err != nil {
			work.Done()
			return err
		}
	}
	return nil
}

// next copies the records that follow in some lane.
func (l *Log) next(at map[string]int) (lane string, recs []*driver.Record, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lane := range slices.Sorted(maps.Keys(l.lanes)) {
		rest := l.lanes[lane][at[lane]:]
		for _, r := range rest[:min(len(rest), max(l.Batch, 1))] {
			c := *r
			c.Event.Extensions = maps.Clone(r.Event.Extensions)
			recs = append(recs, &c)
		}
		if recs != nil {
			return lane, recs, l.more
		}
	}
	return "", nil, l.more
}

// Check implements driver.Source.
func (l *Log) Check(context.Context) error { return nil }

// Store is a sink in memory that can be told to fail.
type Store struct {
	// Before is asked before each write; a nil slice lets it pass, as for Write.
	Before func(ctx context.Context, recs []*driver.Record) []error
	// OpenErr is asked at each Open.
	OpenErr func() error

	mu     sync.Mutex // guards everything below
	stored []driver.Record
	opens  int
}

// Open implements driver.Sink.
func (s *Store) Open(context.Context) error {
	s.mu.Lock()
	s.opens++
	s.mu.Unlock()
	if s.OpenErr != nil {
		return s.OpenErr()
	}
	return nil
}

// Close implements driver.Sink.
func (s *Store) Close() {}

// Check implements driver.Sink.
func (s *Store) Check(context.Context) error { return errors.New("closed for repairs") }

// Write implements driver.Sink.
func (s *Store) Write(ctx context.Context, recs []*driver.Record) []error {
	var errs []error
	if s.Before != nil {
		errs = s.Before(ctx, recs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range recs {
		if errs == nil || errs[i] == nil {
			s.stored = append(s.stored, *r)
		}
	}
	return errs
}

// Stored is everything that was written.
func (s *Store) Stored() []driver.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.stored)
}

// Events are those of Stored.
func (s *Store) Events() []event.Event {
	var out []event.Event
	for _, r := range s.Stored() {
		out = append(out, r.Event)
	}
	return out
}

// Letters keeps dead letters in memory.
type Letters struct {
	Err func() error // asked before each Put; nil lets it pass

	mu  sync.Mutex // guards all
	all []dlq.Letter
}

// Put implements bridge.DeadLetters.
func (l *Letters) Put(_ context.Context, d dlq.Letter) error {
	if l.Err != nil {
		if err := l.Err(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
	return nil
}

// All are the letters kept.
func (l *Letters) All() []dlq.Letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}
