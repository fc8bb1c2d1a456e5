package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"weft.dev/weft/bridge/driver"
)

const (
	retryMin     = 200 * time.Millisecond
	retryMax     = 30 * time.Second
	drainTimeout = 10 * time.Second // for what is in work when a bridge stops
	calmAfter    = time.Minute      // a run this long begins the next back-off anew
	lagInterval  = 5 * time.Second
	lagTimeout   = 3 * time.Second
)

// Memory of one bridge: events in work, each counted with at least recordFloor.
// At the limit the source waits.
const (
	maxInFlight = 64 << 20
	recordFloor = 4 << 10
)

// State of a bridge.
type State string

// The states. A bridge that is retrying goes on by itself; its reason says what
// fails.
const (
	Starting State = "starting"
	Running  State = "running"
	Retrying State = "retrying"
	Paused   State = "paused"
	Stopped  State = "stopped"
)

// Status describes a bridge; counts are since the process started.
type Status struct {
	Name        string     `json:"name"`
	From        string     `json:"from"`
	To          string     `json:"to"`
	Guarantee   string     `json:"guarantee"`
	State       State      `json:"state"`
	Reason      string     `json:"reason,omitempty"`
	Since       time.Time  `json:"since"`
	Read        uint64     `json:"read"`
	Stored      uint64     `json:"stored"`
	Dead        uint64     `json:"dead"`
	Dropped     uint64     `json:"dropped"`
	Retries     uint64     `json:"retries"`
	InFlight    int64      `json:"inFlight"`
	LagMessages int64      `json:"lagMessages"` // -1: not known
	LagSeconds  float64    `json:"lagSeconds"`
	LastError   string     `json:"lastError,omitempty"`
	LastErrorAt *time.Time `json:"lastErrorAt,omitempty"`
}

// relay runs one bridge and starts it again when it fails.
type relay struct {
	cfg      Config
	deps     Deps
	ends     func(Config, Deps, func(string, error)) twoEnds
	metrics  *metrics
	counters counters
	self     string // this bridge in an event's path
	from, to string
	room     *semaphore.Weighted // bytes in work

	read, stored, dead, dropped, retries atomic.Uint64
	inflight                             atomic.Int64

	mu       sync.Mutex // guards everything below
	state    State
	since    time.Time
	paused   bool
	changed  chan struct{} // closed when paused changes
	troubles map[string]error
	lastErr  error
	lastAt   time.Time
	source   driver.Source
	oldest   map[*batch]time.Time // read time of the batches in work
}

func newRelay(cfg Config, d Deps, m *metrics, ends func(Config, Deps, func(string, error)) twoEnds) *relay {
	d.Scope = d.With("bridge", cfg.Name)
	r := &relay{
		cfg: cfg, deps: d, ends: ends, metrics: m, counters: m.of(cfg.Name), self: d.Site + "/" + cfg.Name,
		room: semaphore.NewWeighted(maxInFlight), state: Stopped, since: time.Now(), changed: make(chan struct{}),
		troubles: map[string]error{}, oldest: map[*batch]time.Time{},
	}
	e := ends(cfg, d, func(string, error) {})
	r.from, r.to = e.from.Text, e.to.Text
	return r
}

// run supervises the bridge until ctx ends.
func (r *relay) run(ctx context.Context) {
	defer r.enter(Stopped)
	for failures := 0; ctx.Err() == nil; {
		if !r.awaitResume(ctx) {
			return
		}
		began := time.Now()
		err := r.once(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil: // paused
			failures = 0
			continue
		case time.Since(began) > calmAfter:
			failures = 0
		}
		failures++
		r.trouble("run", err)
		r.counters.restarts.Inc()
		r.deps.Log.WarnContext(ctx, "bridge restarts", "err", err)
		select {
		case <-ctx.Done():
		case <-r.pausing():
		case <-time.After(backoff(failures)):
		}
	}
}

// once opens the sink and reads until ctx ends, the bridge is paused, or
// something fails that a retry of the write does not heal.
func (r *relay) once(ctx context.Context) error {
	run, stop := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stop(nil)
	watch.Go(func() {
		if r.awaitPause(run) {
			stop(errPaused)
		}
	})
	r.restart()
	e := r.ends(r.cfg, r.deps, r.trouble)
	if err := e.sink.Open(run); err != nil {
		if run.Err() != nil {
			return nil
		}
		return err
	}
	defer e.sink.Close()
	if c, ok := e.source.(driver.Connector); ok {
		if err := c.Connect(run); err != nil {
			if run.Err() != nil {
				return nil
			}
			return err
		}
	}
	r.setSource(e.source)
	defer r.setSource(nil)
	r.trouble("run", nil)
	r.enter(Running)
	ls := newLanes(r, e, run, stop)
	err := guard(func() error { return e.source.Run(run, ls.emit) })
	if err == nil {
		err = errEnded
	}
	stop(err) // counts only if nothing else ended the run
	ls.drain()
	if cause := context.Cause(run); !errors.Is(cause, errPaused) && ctx.Err() == nil {
		return cause
	}
	return nil
}

var (
	errPaused = errors.New("paused")
	errEnded  = errors.New("the source ended")
)

// guard turns a panic of a driver into an error, so that it ends one bridge's
// run and not the process.
func guard(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return do()
}

// backoff doubles from retryMin to retryMax and takes a random half away, so
// that bridges that failed together do not return together.
func backoff(attempt int) time.Duration {
	d := retryMax
	if attempt < 16 {
		d = min(retryMin<<(attempt-1), retryMax)
	}
	return d/2 + rand.N(d/2)
}

func (r *relay) pause(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paused != on {
		r.paused = on
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// pausing is ready when the bridge is paused or resumed.
func (r *relay) pausing() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// awaitPause waits until the bridge is paused. False: ctx ended.
func (r *relay) awaitPause(ctx context.Context) bool {
	for {
		r.mu.Lock()
		paused, changed := r.paused, r.changed
		r.mu.Unlock()
		if paused {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// awaitResume waits while the bridge is paused. False: ctx ended.
func (r *relay) awaitResume(ctx context.Context) bool {
	for {
		r.mu.Lock()
		paused, changed := r.paused, r.changed
		r.mu.Unlock()
		if !paused {
			return ctx.Err() == nil
		}
		r.calm()
		r.enter(Paused)
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// enter notes a state; what is in trouble stays retrying.
func (r *relay) enter(s State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.become(s)
}

// become sets the state under the lock.
func (r *relay) become(s State) {
	if s == Running && len(r.troubles) > 0 {
		s = Retrying
	}
	if r.state == s {
		return
	}
	r.deps.Log.Info("bridge state changed", "from", r.state, "to", s)
	r.state, r.since = s, time.Now()
	up := 0.0
	if s == Running {
		up = 1
	}
	r.counters.connected.Set(up)
}

// trouble notes that one part fails, or works again (nil).
func (r *relay) trouble(part string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		if _, ok := r.troubles[part]; ok {
			delete(r.troubles, part)
			if len(r.troubles) == 0 && r.state == Retrying {
				r.become(Running)
			}
		}
		return
	}
	if r.troubles[part] == nil && r.state != Stopped && r.state != Paused {
		r.deps.Log.Warn("bridge in trouble", "part", part, "err", err)
	}
	r.troubles[part], r.lastErr, r.lastAt = err, err, time.Now()
	if r.state == Running || r.state == Starting {
		r.become(Retrying)
	}
}

// calm forgets every trouble.
func (r *relay) calm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.troubles)
}

// restart begins a run: the troubles of the last one are over, but a bridge that
// could not even run stays retrying until it does.
func (r *relay) restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.troubles, func(part string, _ error) bool { return part != "run" })
	if len(r.troubles) == 0 {
		r.become(Starting)
	}
}

func (r *relay) setSource(s driver.Source) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.source = s
}

// status describes the bridge now; it asks the source for its lag.
func (r *relay) status(ctx context.Context) Status {
	lag := r.lag(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	st := Status{
		Name: r.cfg.Name, From: r.from, To: r.to, Guarantee: r.cfg.Guarantee, State: r.state, Since: r.since,
		Read: r.read.Load(), Stored: r.stored.Load(), Dead: r.dead.Load(), Dropped: r.dropped.Load(), Retries: r.retries.Load(),
		InFlight: r.inflight.Load(), LagMessages: lag, LagSeconds: r.age(time.Now()).Seconds(),
	}
	if len(r.troubles) > 0 {
		st.Reason = r.troubles[slices.Min(slices.Collect(maps.Keys(r.troubles)))].Error()
	}
	if r.lastErr != nil {
		at := r.lastAt
		st.LastError, st.LastErrorAt = r.lastErr.Error(), &at
	}
	return st
}

// lag is what waits behind the source and in the engine; -1 if not known.
func (r *relay) lag(ctx context.Context) int64 {
	r.mu.Lock()
	src := r.source
	r.mu.Unlock()
	l, ok := src.(driver.Lagger)
	if !ok {
		return -1
	}
	ctx, cancel := context.WithTimeout(ctx, lagTimeout)
	defer cancel()
	n, err := l.Lag(ctx)
	if err != nil {
		return -1
	}
	return n + r.inflight.Load()
}

// age is that of the oldest event in work, under the lock.
func (r *relay) age(now time.Time) time.Duration {
	if len(r.oldest) == 0 {
		return 0
	}
	first := slices.MinFunc(slices.Collect(maps.Values(r.oldest)), func(a, b time.Time) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
	return max(now.Sub(first), 0)
}

// measure keeps the gauges fresh until ctx ends.
func (r *relay) measure(ctx context.Context) {
	tick := time.NewTicker(lagInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := r.lag(ctx); n >= 0 {
			r.counters.lag.Set(float64(n))
		}
		r.mu.Lock()
		age := r.age(time.Now())
		r.mu.Unlock()
		r.counters.age.Set(age.Seconds())
	}
}
