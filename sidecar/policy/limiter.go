// Package policy holds the decisions of the sidecar: how fast, whether at all,
// when again, and what caused what. It is pure: no I/O, no goroutines and no
// clock. Every call takes the time it happens at, so that a decision can be
// replayed from a script. It makes no compatibility promise.
package policy

import (
	"sync/atomic"
	"time"
)

// Limiter is a token bucket kept as one number (GCRA): the theoretical arrival
// time of the next token that is not yet spent. It is safe for concurrent use
// and allocates nothing.
type Limiter struct {
	start    time.Time    // tat counts from here, so that wall clock jumps do not matter
	tat      atomic.Int64 // nanoseconds since start
	interval int64        // nanoseconds per token
	burst    int64
}

// Decision is the answer of a Limiter.
type Decision struct {
	// OK says that the tokens are spent. The caller then waits for Wait.
	OK bool
	// Wait is the time until the call conforms: before going on if OK, before
	// asking again if not.
	Wait time.Duration
}

// NewLimiter returns a full bucket of burst tokens that refills at rate.
// The rate must be valid; a burst below one counts as one.
func NewLimiter(rate Rate, burst int, now time.Time) *Limiter {
	return &Limiter{start: now, interval: rate.interval(), burst: int64(max(burst, 1))}
}

// Take spends n tokens if they are there, or will be within maxDelay. A call
// that asks for more than the burst is let through once the bucket is full and
// leaves it in debt, so that the rate holds for batches of any size.
func (l *Limiter) Take(now time.Time, n int, maxDelay time.Duration) Decision {
	at := int64(now.Sub(l.start))
	need := min(int64(max(n, 1)), l.burst)
	for {
		tat := l.tat.Load()
		base := max(tat, at)
		wait := base + need*l.interval - l.burst*l.interval - at
		if wait > int64(max(maxDelay, 0)) {
			return Decision{Wait: time.Duration(wait)}
		}
		if l.tat.CompareAndSwap(tat, base+int64(max(n, 1))*l.interval) {
			return Decision{OK: true, Wait: time.Duration(max(wait, 0))}
		}
	}
}

// Tokens returns how many tokens are left; it is negative while calls wait.
func (l *Limiter) Tokens(now time.Time) int {
	at := int64(now.Sub(l.start))
	free := l.burst*l.interval - max(l.tat.Load()-at, 0)
	if free < 0 {
		return int((free - l.interval + 1) / l.interval)
	}
	return int(free / l.interval)
}
