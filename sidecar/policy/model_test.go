package policy_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/sidecar/policy"
)

// The breaker against a model that keeps every call in a list.
func TestBreakerAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		cfg := policy.BreakerConfig{
			FailureRateThreshold: float64(10 + rnd.IntN(90)), SlowCallRateThreshold: float64(10 + rnd.IntN(90)),
			SlowCallDurationThreshold: time.Second, MinimumNumberOfCalls: 1 + rnd.IntN(8),
			WaitDurationInOpenState: time.Second, MaxWaitDurationInOpenState: 8 * time.Second,
			PermittedNumberOfCallsInHalfOpenState: 1 + rnd.IntN(4),
			Window:                                policy.Window{Type: policy.CountBased, Calls: 1 + rnd.IntN(12)},
		}
		if rnd.IntN(2) == 0 {
			cfg.Window = policy.Window{Type: policy.TimeBased, Span: 10 * time.Second}
		}
		b := policy.NewBreaker(cfg, func() float64 { return 0.5 }, nil)
		m := &model{cfg: cfg}
		now := t0
		for i := range 400 {
			now = now.Add(time.Duration(rnd.IntN(1200)) * time.Millisecond)
			failed, slow := rnd.IntN(3) == 0, rnd.IntN(4) == 0
			took := time.Millisecond
			if slow {
				took = 2 * time.Second
			}
			p, _, ok := b.Acquire(now)
			if want := m.allow(now); ok != want {
				t.Fatalf("seed %d call %d: permitted = %t, want %t", seed, i, ok, want)
			}
			if ok {
				b.Record(now, p, failed, took)
				m.record(now, failed, slow)
			}
			if got := b.State(); got != m.state {
				t.Fatalf("seed %d call %d: state = %v, want %v", seed, i, got, m.state)
			}
		}
	}
}

type model struct {
	cfg   policy.BreakerConfig
	state policy.State
	calls []modelCall
	start time.Time
	until time.Time
	opens int
}

type modelCall struct {
	at           time.Time
	failed, slow bool
}

func (m *model) allow(now time.Time) bool {
	if m.state == policy.Open {
		if now.Before(m.until) {
			return false
		}
		m.state, m.calls = policy.HalfOpen, nil
	}
	return true
}

func (m *model) record(now time.Time, failed, slow bool) {
	if len(m.calls) == 0 && m.start.IsZero() {
		m.start = now
	}
	m.calls = append(m.calls, modelCall{now, failed, slow})
	var calls, fails, slows float64
	for i, c := range m.calls {
		if m.in(i, now, c.at) {
			calls++
			if c.failed {
				fails++
			}
			if c.slow {
				slows++
			}
		}
	}
	if calls < float64(m.minimum()) {
		return
	}
	switch {
	case 100*fails/calls >= m.cfg.FailureRateThreshold || 100*slows/calls >= m.cfg.SlowCallRateThreshold:
		wait := min(m.cfg.WaitDurationInOpenState<<m.opens, m.cfg.MaxWaitDurationInOpenState)
		m.opens++
		m.state, m.until = policy.Open, now.Add(wait)
	case m.state == policy.HalfOpen:
		m.state, m.opens, m.calls, m.start = policy.Closed, 0, nil, time.Time{}
	}
}

func (m *model) in(i int, now, at time.Time) bool {
	if m.state == policy.HalfOpen {
		return true
	}
	if m.cfg.Window.Type == policy.CountBased {
		return i >= len(m.calls)-m.cfg.Window.Calls
	}
	slot := m.cfg.Window.Span / 10
	return now.Sub(m.start)/slot-at.Sub(m.start)/slot < 10
}

func (m *model) minimum() int {
	switch {
	case m.state == policy.HalfOpen:
		return m.cfg.PermittedNumberOfCallsInHalfOpenState
	case m.cfg.Window.Type == policy.CountBased:
		return min(m.cfg.MinimumNumberOfCalls, m.cfg.Window.Calls)
	default:
		return m.cfg.MinimumNumberOfCalls
	}
}

// The limiter against a bucket filled by hand.
func TestLimiterAgainstBucket(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		perMilli := 1 + rnd.IntN(5) // a whole number, so that both count exactly
		burst := 1 + rnd.IntN(20)
		l := policy.NewLimiter(policy.Rate{Count: perMilli * 1000, Per: time.Second}, burst, t0)
		interval := time.Second / time.Duration(perMilli*1000)
		full := interval * time.Duration(burst)
		level := full // kept as time: exact
		now := t0
		for i := range 1000 {
			gap := time.Duration(rnd.IntN(3_000)) * time.Microsecond
			now = now.Add(gap)
			level = min(level+gap, full)
			n := 1 + rnd.IntN(3)
			need := interval * time.Duration(min(n, burst))
			delay := time.Duration(rnd.IntN(2)) * time.Millisecond
			d := l.Take(now, n, delay)
			if want := level+delay >= need; d.OK != want {
				t.Fatalf("seed %d call %d: ok = %t, want %t", seed, i, d.OK, want)
			}
			if want := max(need-level, 0); d.Wait != want {
				t.Fatalf("seed %d call %d: wait = %s, want %s", seed, i, d.Wait, want)
			}
			if d.OK {
				level -= interval * time.Duration(n)
			}
		}
	}
}

func TestLimiterConcurrent(t *testing.T) {
	const burst = 1000
	l := policy.NewLimiter(policy.Rate{Count: 1, Per: time.Second}, burst, t0)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range burst {
				if l.Take(t0, 1, 0).OK {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := passed.Load(); got != burst {
		t.Errorf("passed = %d, want %d", got, burst)
	}
}

func TestLimiterAllocatesNothing(t *testing.T) {
	l := policy.NewLimiter(policy.Rate{Count: 1000, Per: time.Second}, 10, t0)
	if n := testing.AllocsPerRun(1000, func() { l.Take(t0, 1, 0) }); n != 0 {
		t.Errorf("allocations = %v, want 0", n)
	}
}

func TestBreakerAllocatesNothing(t *testing.T) {
	b := policy.NewBreaker(policy.DefaultBreaker(), rand.Float64, nil)
	if n := testing.AllocsPerRun(1000, func() {
		p, _, _ := b.Acquire(t0)
		b.Record(t0, p, false, 0)
	}); n != 0 {
		t.Errorf("allocations = %v, want 0", n)
	}
}

func TestRetryStaysInBounds(t *testing.T) {
	r := policy.DefaultRetry()
	rnd := rand.New(rand.NewPCG(3, 3))
	for try := 1; try < 10_000; try += 1 + try/3 {
		for range 100 {
			if d := r.Wait(try, rnd.Float64()); d < r.InitialInterval/2 || d > r.MaxInterval {
				t.Fatalf("try %d: wait = %s, want from %s to %s", try, d, r.InitialInterval/2, r.MaxInterval)
			}
		}
	}
}

func BenchmarkLimiterTake(b *testing.B) {
	l := policy.NewLimiter(policy.Rate{Count: 1_000_000, Per: time.Second}, 1000, time.Now())
	now := time.Now()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Take(now, 1, time.Hour)
		}
	})
}

func BenchmarkBreakerCall(b *testing.B) {
	br := policy.NewBreaker(policy.DefaultBreaker(), rand.Float64, nil)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		p, _, _ := br.Acquire(now)
		br.Record(now, p, false, time.Millisecond)
	}
}
