package loadtest

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// sink takes received bytes of one run. Each receiver (a socket, an endpoint, a
// consumer group) has a ledger of its own and shares the rest.
type sink struct {
	scan     scanner
	pump     *pump
	latency  *histogram
	received atomic.Uint64 // in measured time, duplicates not counted
	total    atomic.Uint64 // over the whole run
	last     atomic.Int64  // Unix nanoseconds of the last delivery
}

func newSink(run string, p *pump) *sink {
	return &sink{scan: newScanner(run), pump: p, latency: newHistogram()}
}

// take notes every stamp in b in a receiver's ledger and returns their number.
func (s *sink) take(l *ledger, b []byte) int {
	now, win := time.Now(), s.pump.window()
	n := 0
	for {
		st, rest, ok := s.scan.next(b)
		if !ok {
			return n
		}
		n++
		b = rest
		if !l.note(st.key, st.seq) {
			continue
		}
		s.total.Add(1)
		s.last.Store(now.UnixNano())
		if win.measures(st.sent) {
			s.latency.record(now.Sub(st.sent))
		}
		if win.measures(now) {
			s.received.Add(1)
		}
	}
}

// receiver is what one ledger is to have seen: all events of its keys.
type receiver struct {
	ledger *ledger
	keys   []int
}

// drain waits until every receiver has all that was accepted, at most for grace.
func (s *sink) drain(ctx context.Context, receivers []*receiver, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	want := s.expected(receivers)
	for s.total.Load() < want && wait(ctx, 10*time.Millisecond) {
	}
	// A duplicate may follow its original; so short a wait finds those of a
	// burst, not those of a later retry.
	wait(ctx, min(grace, 200*time.Millisecond))
}

func (s *sink) expected(receivers []*receiver) uint64 {
	n := uint64(0)
	for _, r := range receivers {
		for _, key := range r.keys {
			n += s.pump.streams[key].accepted.Load()
		}
	}
	return n
}

// delivery is the account of the whole run.
func (s *sink) delivery(receivers []*receiver) *Delivery {
	d := &Delivery{Expected: s.expected(receivers), Latency: s.latency.summary()}
	for _, r := range receivers {
		for _, key := range r.keys {
			d.Lost += r.ledger.lost(key, s.pump.streams[key].accepted.Load())
		}
		r.ledger.mu.Lock()
		d.Duplicates += r.ledger.duplicates
		d.Disordered += r.ledger.disordered
		r.ledger.mu.Unlock()
	}
	d.Delivered = d.Expected - d.Lost
	win := s.pump.window()
	if seconds := win.seconds(); seconds > 0 {
		d.Rate = float64(s.received.Load()) / seconds
	}
	if last := s.last.Load(); last > 0 {
		d.Drain = max(time.Unix(0, last).Sub(win.until).Seconds(), 0)
	}
	return d
}

// publish runs the pump and then waits for the deliveries, with progress. A
// cancelled ctx ends the publishing; the wait for what was accepted goes on.
func (s *sink) publish(ctx context.Context, name string, receivers []*receiver, progress io.Writer) error {
	sent, got := perSecond(s.pump.expected), perSecond(s.total.Load)
	stop := watch(progress, name, func() string {
		behind := int64(s.expected(receivers)) - int64(s.total.Load())
		return fmt.Sprintf("%8.0f events/s  %8.0f deliveries/s  behind %d  errors %d", sent(), got(), behind, s.pump.errs.total())
	})
	defer stop()
	if err := s.pump.work(ctx); err != nil {
		return err
	}
	s.drain(context.WithoutCancel(ctx), receivers, s.pump.Grace)
	return nil
}
