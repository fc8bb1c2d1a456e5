package bridge

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"weft.dev/weft/bridge/driver"
)

const (
	maxLanes  = 1024 // goroutines of one bridge; further lanes share them, which keeps their order
	laneQueue = 256  // batches that wait in a lane; a mesh source hands events over one by one
)

// batch is one of the source's on its way.
type batch struct {
	driver.Batch
	size  int64 // bytes
	room  int64 // what it takes of the bridge's room
	items []*item
}

// settled reports whether the source may forget the batch.
func (b *batch) settled() bool {
	for _, it := range b.items {
		if !it.settled {
			return false
		}
	}
	return len(b.items) == len(b.Records)
}

// item is a record in work.
type item struct {
	*driver.Record
	extensions  map[string]string // as the source gave them, for the dead letter
	settled     bool
	attempts    int
	firstFailed time.Time
	span        trace.Span // of the write; nil when not kept
}

// lanes spreads a run's batches over goroutines, one for each order.
type lanes struct {
	relay *relay
	ends  twoEnds
	run   context.Context // ends when the run does: no more retries then
	fail  context.CancelCauseFunc
	work  context.Context // ends drainTimeout later: nothing is waited for any more
	close context.CancelFunc
	seed  maphash.Seed
	all   sync.WaitGroup // lanes
	side  sync.WaitGroup // what goes on beside them

	mu   sync.Mutex // guards byID
	byID map[string]chan *batch
}

func newLanes(r *relay, e twoEnds, run context.Context, fail context.CancelCauseFunc) *lanes {
	ls := &lanes{relay: r, ends: e, run: run, fail: fail, seed: maphash.MakeSeed(), byID: map[string]chan *batch{}}
	ls.work, ls.close = context.WithCancel(context.WithoutCancel(run))
	context.AfterFunc(run, func() {
		stop := time.AfterFunc(drainTimeout, ls.close)
		context.AfterFunc(ls.work, func() { stop.Stop() })
	})
	ls.side.Go(func() { r.measure(ls.work) })
	return ls
}

// emit is the driver.Emit of a run: it waits for room, then for the lane.
func (ls *lanes) emit(ctx context.Context, b driver.Batch) error {
	r := ls.relay
	held := &batch{Batch: b}
	for _, rec := range b.Records {
		size := int64(rec.Size())
		held.size += size
		held.room += max(size, recordFloor)
	}
	held.room = min(held.room, maxInFlight)
	if err := r.room.Acquire(ctx, held.room); err != nil {
		return err
	}
	n := len(b.Records)
	r.hold(held, n)
	select {
	case ls.lane(b.Lane) <- held:
		r.read.Add(uint64(n))
		r.counters.read.Add(float64(n))
		return nil
	case <-ctx.Done():
	case <-ls.work.Done():
	}
	r.release(held)
	return cmp.Or(context.Cause(ctx), errStopping)
}

func (r *relay) hold(b *batch, n int) {
	r.counters.inflight.Set(float64(r.inflight.Add(int64(n))))
	if n == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.oldest[b] = b.Records[0].At
}

func (r *relay) release(b *batch) {
	r.mu.Lock()
	delete(r.oldest, b)
	r.mu.Unlock()
	r.room.Release(b.room)
	r.counters.inflight.Set(float64(r.inflight.Add(-int64(len(b.Records)))))
}

// lane finds or starts the goroutine of a lane; drain ends it.
func (ls *lanes) lane(id string) chan<- *batch {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ch, ok := ls.byID[id]
	if !ok && len(ls.byID) >= maxLanes {
		id = "shared " + strconv.FormatUint(maphash.String(ls.seed, id)%maxLanes, 10)
		ch, ok = ls.byID[id]
	}
	if !ok {
		ch = make(chan *batch, laneQueue)
		ls.byID[id] = ch
		l := &lane{lanes: ls, r: ls.relay, id: id, in: ch}
		ls.all.Go(l.loop)
	}
	return ch
}

// drain ends the lanes after the source has returned and the run has ended.
func (ls *lanes) drain() {
	ls.mu.Lock()
	for _, ch := range ls.byID {
		close(ch)
	}
	ls.mu.Unlock()
	ls.all.Wait()
	ls.close()
	ls.side.Wait()
}

// lane writes the batches of one order, one write at a time.
type lane struct {
	*lanes
	r    *relay
	id   string
	in   <-chan *batch
	next *batch // taken from in, for the next write
	// failed is the batch that was given back, with the reason. What follows it
	// in its order is given back too: a source with positions would forget the
	// failed one with any later one.
	failed *batch
	reason error
}

// loop settles every batch it gets, whatever happens.
func (l *lane) loop() {
	for {
		group := l.gather()
		if len(group) == 0 {
			return
		}
		l.deliver(group)
	}
}

// gather takes batches for one write: until size or bytes are reached, linger
// is over, or the source's lane has changed hands.
func (l *lane) gather() []*batch {
	first := l.next
	l.next = nil
	if first == nil {
		first = <-l.in
	}
	if first == nil {
		return nil
	}
	group, n, bytes := []*batch{first}, len(first.Records), first.size
	linger := time.NewTimer(l.r.cfg.Batch.Linger.Std())
	defer linger.Stop()
	for n < l.r.cfg.Batch.Size && bytes < l.r.cfg.Batch.Bytes.Bytes() {
		var b *batch
		select {
		case b = <-l.in:
		default:
			select {
			case b = <-l.in:
			case <-linger.C:
				return group
			}
		}
		if b == nil {
			return group
		}
		if !sameOwner(b, first) {
			l.next = b
			return group
		}
		group, n, bytes = append(group, b), n+len(b.Records), bytes+b.size
	}
	return group
}

// sameOwner reports whether two batches are lost together.
func sameOwner(a, b *batch) bool {
	return a.Lane == b.Lane && (a.Context == b.Context || (a.Context.Done() == nil && b.Context.Done() == nil))
}

// deliver writes a group and settles each of its batches in order.
func (l *lane) deliver(group []*batch) {
	if l.failed != nil && !sameOwner(l.failed, group[0]) {
		l.failed = nil // the lane was lost and is new
	}
	if l.failed == nil {
		l.attempt(group)
	}
	for _, b := range group {
		if l.failed == nil && !b.settled() {
			l.failed = b
		}
		if l.failed != nil {
			b.Done(l.reason)
		} else {
			b.Done(nil)
		}
		l.r.release(b)
	}
}

// attempt brings a group as far as it gets.
func (l *lane) attempt(group []*batch) {
	ctx, stop := context.WithCancelCause(l.work)
	unhook := context.AfterFunc(group[0].Context, func() { stop(errLost) })
	err := guard(func() error { return l.settle(ctx, l.prepare(group)) })
	unhook()
	stop(nil)
	if l.reason = err; err == nil {
		return
	}
	for _, b := range group {
		for _, it := range b.items {
			it.finish(err)
		}
	}
	if l.run.Err() == nil && !errors.Is(err, errLost) {
		l.fail(err) // a panic: the bridge starts again
	}
}

var (
	errLost     = errors.New("the lane has another reader now")
	errStopping = errors.New("the bridge stops")
)

// settle brings every item to its end, in order: stored, dropped or dead.
func (l *lane) settle(ctx context.Context, items []*item) error {
	ready := make([]*item, 0, len(items))
	for _, it := range items {
		if it.settled {
			continue
		}
		if it.Err != nil {
			if err := l.bury(ctx, it, it.Err); err != nil {
				return err
			}
			continue
		}
		ready = append(ready, it)
	}
	for len(ready) > 0 {
		n := l.fits(ready)
		if err := l.store(ctx, ready[:n]); err != nil {
			return err
		}
		ready = ready[n:]
	}
	return nil
}

// fits is how many items make one write.
func (l *lane) fits(items []*item) int {
	size, limit := l.r.cfg.Batch.Size, l.r.cfg.Batch.Bytes.Bytes()
	if m := l.ends.to.MaxBatch; m > 0 {
		size = min(size, m)
	}
	if m := l.ends.to.MaxBytes; m > 0 {
		limit = min(limit, int64(m))
	}
	n, bytes := 0, int64(0)
	for n < len(items) && n < size && (n == 0 || bytes+int64(items[n].Size()) <= limit) {
		bytes += int64(items[n].Size())
		n++
	}
	return n
}

// store writes until every item is stored or dead. What fails in a way that may
// heal is tried for ever, with back-off, and the bridge's state tells.
func (l *lane) store(ctx context.Context, left []*item) error {
	part := "lane " + l.id
	defer l.r.trouble(part, nil)
	for attempt := 1; ; attempt++ {
		failure, again, err := l.write(ctx, left)
		if err != nil {
			return err
		}
		if len(again) == 0 {
			return nil
		}
		left = again
		l.r.trouble(part, failure)
		l.r.retries.Add(1)
		l.r.counters.retries.Inc()
		if err := l.wait(ctx, max(backoff(attempt), driver.Delay(failure))); err != nil {
			return err
		}
	}
}

// write makes one attempt. It returns the items to try again and why; the error
// means that there is no time left to try.
func (l *lane) write(ctx context.Context, items []*item) (failure error, again []*item, err error) {
	recs := make([]*driver.Record, len(items))
	for i, it := range items {
		it.attempts++
		recs[i] = it.Record
	}
	began := time.Now()
	l.r.counters.batch.Observe(float64(len(recs)))
	errs := l.ends.sink.Write(ctx, recs)
	l.r.counters.write.Observe(time.Since(began).Seconds())
	stored := 0
	for i, it := range items {
		if errs == nil || errs[i] == nil {
			it.settled = true
			it.finish(nil)
			stored++
			continue
		}
		if it.firstFailed.IsZero() {
			it.firstFailed = began
		}
		if _, final := driver.Reason(errs[i]); final {
			if err := l.bury(ctx, it, errs[i]); err != nil {
				return nil, nil, err
			}
			continue
		}
		if failure == nil {
			failure = errs[i]
		}
		again = append(again, it)
	}
	l.r.stored.Add(uint64(stored))
	l.r.counters.stored.Add(float64(stored))
	return failure, again, nil
}

// wait pauses before the next attempt; the error means that there is none.
func (l *lane) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.run.Done():
		return errStopping
	}
}
