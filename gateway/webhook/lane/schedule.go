package lane

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Schedule is the list of waits between attempts: after attempt n fails, the
// next one follows Schedule[n-1] later. An event has len(Schedule)+1 attempts.
type Schedule []time.Duration

// DefaultSchedule is the example of the Standard Webhooks specification: ten
// attempts over 75 h 35 min 5 s.
func DefaultSchedule() Schedule {
	return Schedule{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
		10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
}

const (
	// jitter spreads retries by +-20 %, so that what failed together does not
	// come back together.
	jitter = 0.2
	// maxRetryAfter bounds what a receiver may ask for.
	maxRetryAfter = 24 * time.Hour
)

// Wait is the time from failed attempt n to the next; ok is false when there
// is none. rnd is a random number in [0,1).
func (s Schedule) Wait(n int, rnd float64) (d time.Duration, ok bool) {
	if n < 1 || n > len(s) {
		return 0, false
	}
	return spread(s[n-1], rnd), true
}

// probe is the wait before trial k of an endpoint that fails as a whole; the
// last step repeats.
func (s Schedule) probe(k int, rnd float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	return spread(s[min(k, len(s)-1)], rnd)
}

func spread(d time.Duration, rnd float64) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rnd))
}

// RetryAfter reads a Retry-After header: seconds or an HTTP date. It is 0 when
// absent, unreadable or in the past, and at most 24 h.
func RetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	var d time.Duration
	if sec, err := strconv.ParseUint(value, 10, 64); err == nil {
		d = time.Duration(min(sec, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
