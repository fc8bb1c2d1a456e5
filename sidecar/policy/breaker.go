package policy

import (
	"fmt"
	"time"
)

// State is a state of a circuit breaker, named as in Resilience4j.
type State int

// The states. The values are those of the metric weft_sidecar_breaker_state.
const (
	Closed State = iota
	HalfOpen
	Open
)

// String returns the name of the state.
func (s State) String() string {
	switch s {
	case HalfOpen:
		return "HALF_OPEN"
	case Open:
		return "OPEN"
	default:
		return "CLOSED"
	}
}

// MarshalText writes the name of the state.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name of a state.
func (s *State) UnmarshalText(text []byte) error {
	for _, known := range []State{Closed, HalfOpen, Open} {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("breaker state %q: want CLOSED, HALF_OPEN or OPEN", text)
}

// openJitter spreads the time a breaker stays open, so that pods which opened
// together do not probe together.
const openJitter = 0.1

// BreakerConfig has the words and the meaning of Resilience4j. The time a
// breaker stays open doubles on each failed probe up to
// MaxWaitDurationInOpenState.
type BreakerConfig struct {
	// FailureRateThreshold and SlowCallRateThreshold are percentages: at or
	// above one of them the breaker opens.
	FailureRateThreshold  float64
	SlowCallRateThreshold float64
	// A call is slow if it takes longer than SlowCallDurationThreshold.
	SlowCallDurationThreshold  time.Duration
	Window                     Window
	MinimumNumberOfCalls       int
	WaitDurationInOpenState    time.Duration
	MaxWaitDurationInOpenState time.Duration
	// PermittedNumberOfCallsInHalfOpenState is the number of probes that
	// decide whether the breaker closes.
	PermittedNumberOfCallsInHalfOpenState int
}

// DefaultBreaker reacts faster than Resilience4j's defaults (100 calls, 60 s),
// which suit request rates that a subscription does not have.
func DefaultBreaker() BreakerConfig {
	return BreakerConfig{
		FailureRateThreshold:                  50,
		SlowCallRateThreshold:                 80,
		SlowCallDurationThreshold:             5 * time.Second,
		Window:                                Window{Type: TimeBased, Span: 10 * time.Second},
		MinimumNumberOfCalls:                  10,
		WaitDurationInOpenState:               5 * time.Second,
		MaxWaitDurationInOpenState:            time.Minute,
		PermittedNumberOfCallsInHalfOpenState: 3,
	}
}

// Breaker is a circuit breaker. It is not safe for concurrent use: its owner
// serialises the calls.
type Breaker struct {
	cfg     BreakerConfig
	random  func() float64
	state   State
	epoch   uint64 // counts transitions; a permit of an older epoch decides nothing
	window  window
	opens   int       // times opened by rates since last closed: decides how long
	until   time.Time // end of OPEN
	permits int       // probes handed out in HALF_OPEN and not released
	onMove  func(from, to State)
}

// Permit is the right to make one call. It is given back with Record or
// Release.
type Permit struct{ epoch uint64 }

// NewBreaker returns a closed breaker. random returns numbers in [0, 1) for
// the jitter; moved, if not nil, is told of every transition.
func NewBreaker(cfg BreakerConfig, random func() float64, moved func(from, to State)) *Breaker {
	if moved == nil {
		moved = func(State, State) {}
	}
	b := &Breaker{cfg: cfg, random: random, onMove: moved}
	b.window = newWindow(cfg.Window)
	return b
}

// State returns the state as of the last call.
func (b *Breaker) State() State { return b.state }

// Until returns when an open breaker lets the first probe through.
func (b *Breaker) Until() time.Time { return b.until }

// Rates returns the failure rate and the slow call rate in percent and the
// number of calls they come from.
func (b *Breaker) Rates(now time.Time) (failure, slow float64, calls int) {
	t := b.window.totals(now)
	return t.rate(t.failed), t.rate(t.slow), t.calls
}

// Acquire asks for the right to make a call. If it is refused, wait is the time
// after which to ask again; zero means: when a probe under way has ended.
func (b *Breaker) Acquire(now time.Time) (p Permit, wait time.Duration, ok bool) {
	if b.state == Open {
		if left := b.until.Sub(now); left > 0 {
			return Permit{}, left, false
		}
		b.move(HalfOpen)
	}
	if b.state == HalfOpen {
		if b.permits >= b.cfg.PermittedNumberOfCallsInHalfOpenState {
			return Permit{}, 0, false
		}
		b.permits++
	}
	return Permit{epoch: b.epoch}, 0, true
}

// Record tells the outcome of a permitted call. The outcome of a call that
// began before the last transition is ignored.
func (b *Breaker) Record(now time.Time, p Permit, failed bool, took time.Duration) {
	if p.epoch != b.epoch || b.state == Open {
		return
	}
	b.window.add(now, failed, took > b.cfg.SlowCallDurationThreshold)
	t := b.window.totals(now)
	if t.calls < b.minimum() {
		return
	}
	switch tripped := t.rate(t.failed) >= b.cfg.FailureRateThreshold || t.rate(t.slow) >= b.cfg.SlowCallRateThreshold; {
	case tripped:
		b.opens++
		b.open(now, b.opens)
	case b.state == HalfOpen:
		b.move(Closed)
	}
}

// Release gives a permit back without an outcome: the call was not made, or its
// failure says nothing about the app.
func (b *Breaker) Release(p Permit) {
	if p.epoch == b.epoch && b.state == HalfOpen {
		b.permits--
	}
}

// Trip opens the breaker at once, whatever the rates are: the app cannot be
// reached at all. Asking again costs the app nothing, so the wait does not
// double. A permit of an older epoch does nothing.
func (b *Breaker) Trip(now time.Time, p Permit) {
	if p.epoch == b.epoch && b.state != Open {
		b.open(now, 1)
	}
}

func (b *Breaker) minimum() int {
	switch {
	case b.state == HalfOpen:
		return b.cfg.PermittedNumberOfCallsInHalfOpenState
	case b.cfg.Window.Type == CountBased:
		return min(b.cfg.MinimumNumberOfCalls, b.cfg.Window.Calls)
	default:
		return b.cfg.MinimumNumberOfCalls
	}
}

// open stays open for the times-th wait of the doubling schedule.
func (b *Breaker) open(now time.Time, times int) {
	d := Retry{InitialInterval: b.cfg.WaitDurationInOpenState, MaxInterval: b.cfg.MaxWaitDurationInOpenState}
	b.until = now.Add(spread(d.Wait(times, 0), openJitter, b.random()))
	b.move(Open)
}

func (b *Breaker) move(to State) {
	from := b.state
	b.state, b.permits = to, 0
	b.epoch++
	switch to {
	case HalfOpen: // counts its probes alone
		b.window = newWindow(Window{Type: CountBased, Calls: b.cfg.PermittedNumberOfCallsInHalfOpenState})
	case Closed:
		b.opens = 0
		b.window = newWindow(b.cfg.Window)
	case Open: // keeps the window that opened it, for the console
	}
	b.onMove(from, to)
}
