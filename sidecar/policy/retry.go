package policy

import "time"

// Retry is a schedule: how often a message is tried and how long to wait
// between two tries. The wait doubles from InitialInterval to MaxInterval.
type Retry struct {
	// MaxAttempts is the number of calls that may reach the app.
	MaxAttempts     int
	InitialInterval time.Duration
	MaxInterval     time.Duration
	// Jitter spreads each wait by this share to both sides, 0 to 1.
	Jitter float64
}

// DefaultRetry tries eight times in about half a minute.
func DefaultRetry() Retry {
	return Retry{MaxAttempts: 8, InitialInterval: 200 * time.Millisecond, MaxInterval: time.Minute, Jitter: 0.5}
}

// Exhausted says that no call is left after the given number of attempts.
func (r Retry) Exhausted(attempts int) bool { return attempts >= r.MaxAttempts }

// Wait returns the time to wait after the given failed try (1 is the first).
// random is a number in [0, 1); it decides the jitter.
func (r Retry) Wait(try int, random float64) time.Duration {
	d := r.InitialInterval
	for range max(try, 1) - 1 {
		if d >= r.MaxInterval/2 {
			d = r.MaxInterval
			break
		}
		d *= 2
	}
	return min(spread(d, r.Jitter, random), r.MaxInterval)
}

// spread moves d by at most share of itself to either side.
func spread(d time.Duration, share, random float64) time.Duration {
	return time.Duration(float64(d) * (1 - share + 2*share*random))
}
