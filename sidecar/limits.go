package sidecar

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/sidecar/policy"
)

// limit is one publish rule at work.
type limit struct {
	subjects              []string
	text                  string // the rate as configured
	limiter               *policy.Limiter
	maxDelay              time.Duration
	passed, delayed, over prometheus.Counter
}

// limits are the publish rules in the order of the configuration.
type limits []limit

func newLimits(rules []Rule, now time.Time, m *metrics) limits {
	ls := make(limits, len(rules))
	for i, r := range rules {
		rl := r.RateLimit.withDefaults()
		name := r.Subjects[0]
		ls[i] = limit{
			subjects: r.Subjects,
			text:     rl.Rate.String(),
			limiter:  policy.NewLimiter(rl.Rate, rl.Burst, now),
			passed:   m.limits.WithLabelValues(name, "pass"),
			delayed:  m.limits.WithLabelValues(name, "delay"),
			over:     m.limits.WithLabelValues(name, "reject"),
		}
		if rl.OnLimit == onLimitDelay {
			ls[i].maxDelay = rl.MaxDelay.Std()
		}
	}
	return ls
}

// admit lets n events on subject pass, at once or after a wait; else the error
// is the answer 429. The first rule that matches decides.
func (ls limits) admit(ctx context.Context, subject string, n int) error {
	for i := range ls {
		for _, p := range ls[i].subjects {
			if event.Match(p, subject) {
				return ls[i].take(ctx, n)
			}
		}
	}
	return nil
}

func (l *limit) take(ctx context.Context, n int) error {
	d := l.limiter.Take(time.Now(), n, l.maxDelay)
	switch {
	case !d.OK:
		l.over.Inc()
		return httpd.Problem{
			Type: "rate-limited", Title: "The rate limit of these subjects is reached", Status: http.StatusTooManyRequests,
			Detail: fmt.Sprintf("%s on %v: try again in %s", l.text, l.subjects, d.Wait.Round(time.Millisecond)),
			Limit:  l.text, RetryAfter: d.Wait,
		}
	case d.Wait == 0:
		l.passed.Inc()
		return nil
	}
	l.delayed.Inc()
	timer := time.NewTimer(d.Wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
