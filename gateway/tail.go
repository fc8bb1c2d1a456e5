package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/filter"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
)

const (
	tailIdle     = 30 * time.Second // the reader stops this long after the last feed has gone
	tailCheck    = 2 * time.Second  // between looks at the stream's epoch
	tailLag      = time.Second      // a reader this far behind may be overtaken by retention
	tailRetryMin = 50 * time.Millisecond
	tailRetryMax = 2 * time.Second
	entryCost    = 512 // bytes counted for an entry beside its data
)

// entry is one event of the stream, shared by everything that sends it.
type entry struct {
	event.Stored
	once    sync.Once
	encoded []byte
	deliver *delivery // nil unless the event's trace is sampled and somebody was live
}

// json is the event as CloudEvents JSON, encoded by the first who needs it.
func (e *entry) json() []byte {
	e.once.Do(func() { e.encoded = e.AppendJSON(make([]byte, 0, 256+len(e.Data)+len(e.Data)/8)) })
	return e.encoded
}

func (e *entry) cost() int { return entryCost + len(e.Data) }

// Attribute gives filters the event's attributes.
func (e *entry) Attribute(name string) string {
	switch name {
	case "specversion":
		return event.SpecVersion
	case "id":
		return e.ID
	case "source":
		return e.Source
	case "type":
		return e.Type
	case "subject":
		return e.Event.Subject
	case "time":
		return e.Time
	case "datacontenttype":
		return e.DataContentType
	case "dataschema":
		return e.DataSchema
	}
	return e.Extensions[name]
}

// window holds the newest events of something: every one after floor.
type window struct {
	floor   uint64
	entries []*entry // ascending
}

func (w *window) push(e *entry) { w.entries = append(w.entries, e) }

// dropThrough removes the events up to seq.
func (w *window) dropThrough(seq uint64) {
	n := w.find(seq)
	if n == 0 {
		return
	}
	w.floor = w.entries[n-1].Seq
	clear(w.entries[:n]) // the array lives on until append moves it
	w.entries = w.entries[n:]
}

// find is the index of the first event after seq.
func (w *window) find(seq uint64) int {
	i, _ := slices.BinarySearchFunc(w.entries, seq+1, func(e *entry, seq uint64) int {
		switch {
		case e.Seq < seq:
			return -1
		case e.Seq > seq:
			return 1
		}
		return 0
	})
	return i
}

// feed is everything that matches one pattern and filter. All subscriptions to
// the same pair share it. Its number is in the frames instead of their ids.
type feed struct {
	number  uint64
	key     string
	pattern string
	filter  filter.Filter
	window                             // guarded by tail.mu
	subs    map[*subscription]struct{} // guarded by tail.mu
}

func (f *feed) match(e *entry) bool {
	return event.Match(f.pattern, e.Path) && f.filter.Match(e)
}

// tail reads the site's stream once for all sockets and keeps its newest
// events. It runs only while there are feeds.
type tail struct {
	obs.Scope
	log     Log
	metrics *metrics
	limit   Tail
	pages   chan struct{} // one slot per subscription that reads history
	spans   *deliveries

	mu     sync.RWMutex // guards everything below and the windows and subs of feeds
	window              // every event from floor to head
	epoch  string
	head   uint64 // everything up to head has been dispatched
	bytes  int
	feeds  map[string]*feed
	number uint64        // of the newest feed
	ready  chan struct{} // closed while the reader runs
	demand chan struct{} // has room for one signal: a feed came or went
}

func newTail(log Log, scope obs.Scope, m *metrics, limit Tail) *tail {
	return &tail{
		Scope: scope, log: log, metrics: m, limit: limit,
		pages: make(chan struct{}, pageWorkers),
		spans: newDeliveries(scope.Tracer),
		feeds: make(map[string]*feed), ready: make(chan struct{}), demand: make(chan struct{}, 1),
	}
}

// run reads the stream while somebody wants it, until ctx ends.
func (t *tail) run(ctx context.Context) error {
	retry := tailRetryMin
	for {
		if !t.wanted() {
			select {
			case <-ctx.Done():
				return nil
			case <-t.demand:
			}
			continue
		}
		began := time.Now()
		err := t.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errIdle) {
			continue
		}
		if time.Since(began) > tailRetryMax {
			retry = tailRetryMin
		}
		t.Log.WarnContext(ctx, "reading the stream again", "err", err, "wait", retry)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
		retry = min(2*retry, tailRetryMax)
	}
}

var errIdle = errors.New("nobody reads")

// follow reads from the stream's end until something fails or nobody wants it
// any more.
func (t *tail) follow(ctx context.Context) error {
	info, err := t.log.Info(ctx)
	if err != nil {
		return fmt.Errorf("look at the stream: %w", err)
	}
	own, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() { defer close(done); t.watch(own, info.Epoch, cancel) }() // ends with own
	t.reset(info)
	err = t.log.Read(own, bus.ReadConfig{Patterns: []string{">"}, After: info.Last}, func(s event.Stored) error { return t.add(own, s) })
	t.suspend()
	if cause := context.Cause(own); errors.Is(cause, errIdle) || errors.Is(cause, errRenewed) {
		err = cause
	}
	cancel(nil)
	<-done
	if err == nil {
		err = errors.New("the reader ended")
	}
	return err
}

// watch cancels the reader once no feed has been there for a while, and when
// the stream was made anew, which a reader does not notice by itself.
func (t *tail) watch(ctx context.Context, epoch string, cancel context.CancelCauseFunc) {
	var idle <-chan time.Time
	check := time.NewTicker(tailCheck)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			if info, err := t.log.Info(ctx); err == nil && info.Epoch != epoch {
				cancel(errRenewed)
				return
			}
		case <-idle:
			cancel(errIdle)
			return
		case <-t.demand:
			switch {
			case t.wanted():
				idle = nil
			case idle == nil:
				idle = time.After(tailIdle)
			}
		}
	}
}

func (t *tail) wanted() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.feeds) > 0
}

// reset starts over at the stream's end. Subscriptions that are behind it find
// the events between in the stream itself.
func (t *tail) reset(info bus.StreamInfo) {
	t.mu.Lock()
	t.window = window{floor: info.Last}
	t.epoch, t.head, t.bytes = info.Epoch, info.Last, 0
	for _, f := range t.feeds {
		f.window = window{floor: info.Last}
	}
	close(t.ready)
	t.mu.Unlock()
	t.wakeAll()
}

func (t *tail) suspend() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready = make(chan struct{})
}

// await returns when the tail reads, with the position of its head.
func (t *tail) await(ctx context.Context) (epoch string, head uint64, err error) {
	for {
		t.mu.RLock()
		ready := t.ready
		epoch, head = t.epoch, t.head
		t.mu.RUnlock()
		select {
		case <-ready:
			return epoch, head, nil
		default:
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return "", 0, fmt.Errorf("wait for the stream: %w", ctx.Err())
		}
	}
}

// add takes the next event of the stream: into the window, into the windows of
// the feeds it matches, and wakes their subscriptions.
func (t *tail) add(ctx context.Context, s event.Stored) error {
	if s.Seq > t.headNow()+1 && time.Since(s.StoredAt) > tailLag {
		if err := t.checkHole(ctx, s.Seq); err != nil {
			return err
		}
	}
	e := &entry{Stored: s.Delivered()}
	var matched []*feed
	t.mu.Lock()
	for _, f := range t.feeds {
		if f.match(e) {
			matched = append(matched, f)
			f.push(e)
		}
	}
	if obs.Sampled(s.Event) {
		if n := live(matched); n > 0 {
			e.deliver = t.spans.open(e, n)
		}
	}
	t.push(e)
	t.head = e.Seq
	t.bytes += e.cost()
	t.evict()
	t.mu.Unlock()
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, f := range matched {
		for sub := range f.subs {
			sub.wake()
		}
	}
	return nil
}

// checkHole is called for sequences that are no events to a reader that is
// behind: when retention has overtaken it, the windows begin anew after the
// hole, and subscriptions find out in history what they have missed.
func (t *tail) checkHole(ctx context.Context, next uint64) error {
	info, err := t.log.Info(ctx)
	if err != nil {
		return fmt.Errorf("look at the stream: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if info.First <= t.head+1 {
		return nil
	}
	t.window, t.bytes = window{floor: next - 1}, 0
	for _, f := range t.feeds {
		f.window = window{floor: next - 1}
	}
	return nil
}

// live counts the subscriptions that wait at the head of the feeds.
func live(feeds []*feed) int {
	n := 0
	for _, f := range feeds {
		for sub := range f.subs {
			if sub.live.Load() {
				n++
			}
		}
	}
	return n
}

// evict keeps the window within its limits. It always keeps the newest event.
func (t *tail) evict() {
	n := 0
	for n < len(t.entries)-1 && (len(t.entries)-n > t.limit.Events || t.bytes > int(t.limit.Bytes)) {
		t.bytes -= t.entries[n].cost()
		n++
	}
	if n == 0 {
		return
	}
	t.dropThrough(t.entries[n-1].Seq)
	for _, f := range t.feeds {
		f.dropThrough(t.floor)
	}
}

func (t *tail) wakeAll() {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, f := range t.feeds {
		for sub := range f.subs {
			sub.wake()
		}
	}
}

// subscribe puts sub on the feed of a pattern and filter.
func (t *tail) subscribe(sub *subscription, pattern string, flt filter.Filter) {
	key := feedKey(pattern, flt)
	t.mu.Lock()
	f := t.feeds[key]
	if f == nil {
		t.number++
		f = &feed{number: t.number, key: key, pattern: pattern, filter: flt, subs: make(map[*subscription]struct{})}
		f.floor = t.floor
		for _, e := range t.entries {
			if f.match(e) {
				f.push(e)
			}
		}
		t.feeds[key] = f
	}
	f.subs[sub] = struct{}{}
	sub.feed = f
	t.mu.Unlock()
	t.metrics.subscriptions.Inc()
	t.signal()
}

// unsubscribe is called once for each subscribe.
func (t *tail) unsubscribe(sub *subscription) {
	t.mu.Lock()
	delete(sub.feed.subs, sub)
	if len(sub.feed.subs) == 0 {
		delete(t.feeds, sub.feed.key)
	}
	t.mu.Unlock()
	t.metrics.subscriptions.Dec()
	t.signal()
}

func (t *tail) signal() {
	select {
	case t.demand <- struct{}{}:
	default:
	}
}

func feedKey(pattern string, flt filter.Filter) string { return pattern + "\x00" + flt.String() }

// page reads history, a bounded number of subscriptions at a time.
func (t *tail) page(ctx context.Context, cfg bus.PageConfig) ([]event.Stored, uint64, error) {
	select {
	case t.pages <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("wait to read history: %w", ctx.Err())
	}
	defer func() { <-t.pages }()
	t.metrics.history.Inc()
	events, next, err := t.log.Page(ctx, cfg)
	if err != nil {
		return nil, 0, fmt.Errorf("read history of %s: %w", cfg.Pattern, err)
	}
	return events, next, nil
}

// headNow is the position up to which events have been dispatched.
func (t *tail) headNow() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.head
}

// at finds an event that is still in the window.
func (t *tail) at(seq uint64) *entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if i := t.find(seq - 1); seq > 0 && i < len(t.entries) && t.entries[i].Seq == seq {
		return t.entries[i]
	}
	return nil
}
