package sidecar

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"weft.dev/weft/sidecar/policy"
)

// metrics are those of observability for sidecars. The label policy holds names
// from the configuration only: a subscription's name, or the first pattern of a
// publish rule.
type metrics struct {
	requests     *prometheus.CounterVec   // direction, code_class
	limits       *prometheus.CounterVec   // policy, decision
	state        *prometheus.GaugeVec     // policy
	transitions  *prometheus.CounterVec   // policy, to
	retries      *prometheus.CounterVec   // policy, outcome
	inflight     *prometheus.GaugeVec     // policy
	held         *prometheus.GaugeVec     // policy
	deadLetters  *prometheus.CounterVec   // policy, reason
	seconds      *prometheus.HistogramVec // policy
	spansSent    prometheus.Counter
	spansDropped prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, up func() bool) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "weft_sidecar_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts{Name: "weft_sidecar_" + name, Help: help}, []string{"policy"})
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weft_sidecar_upstream_connected", Help: "1 while the sidecar is connected to the mesh.",
	}, func() float64 {
		if up() {
			return 1
		}
		return 0
	})
	spans := counter("spans_total", "Finished spans, by what became of them.", "result")
	return &metrics{
		requests:    counter("requests_total", "Requests from the app (publish) and to it (push), by class of the answer's status.", "direction", "code_class"),
		limits:      counter("ratelimit_decisions_total", "Decisions of rate limits: pass, delay or reject.", "policy", "decision"),
		state:       gauge("breaker_state", "State of a circuit breaker: 0 closed, 1 half open, 2 open."),
		transitions: counter("breaker_transitions_total", "Transitions of circuit breakers, by the new state.", "policy", "to"),
		retries:     counter("retries_total", "Calls that did not succeed: retry or give_up.", "policy", "outcome"),
		inflight:    gauge("inflight", "Calls to the app under way."),
		held:        gauge("held_events", "Events held, in calls or parked."),
		deadLetters: counter("dead_letters_total", "Events stored as dead letters.", "policy", "reason"),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_sidecar_push_duration_seconds", Help: "Time of one call to the app.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
		}, []string{"policy"}),
		spansSent:    spans.WithLabelValues("sent"),
		spansDropped: spans.WithLabelValues("dropped"),
	}
}

// laneMetrics are those of one subscription.
type laneMetrics struct {
	m        *metrics
	name     string
	inflight prometheus.Gauge
	held     prometheus.Gauge
	seconds  prometheus.Observer
	retry    prometheus.Counter
	giveUp   prometheus.Counter
}

func (m *metrics) lane(name string) *laneMetrics {
	m.state.WithLabelValues(name).Set(float64(policy.Closed))
	return &laneMetrics{
		m: m, name: name,
		inflight: m.inflight.WithLabelValues(name),
		held:     m.held.WithLabelValues(name),
		seconds:  m.seconds.WithLabelValues(name),
		retry:    m.retries.WithLabelValues(name, "retry"),
		giveUp:   m.retries.WithLabelValues(name, "give_up"),
	}
}

func (l *laneMetrics) called(o outcome) {
	l.m.requests.WithLabelValues("push", class(o.status, o.verdict.String())).Inc()
	if o.verdict != unreached && o.verdict != aborted {
		l.seconds.Observe(o.took.Seconds())
	}
}

func (l *laneMetrics) retried(again bool) {
	if again {
		l.retry.Inc()
		return
	}
	l.giveUp.Inc()
}

func (l *laneMetrics) buried(reason string) { l.m.deadLetters.WithLabelValues(l.name, reason).Inc() }

func (l *laneMetrics) moved(to policy.State) {
	l.m.state.WithLabelValues(l.name).Set(float64(to))
	l.m.transitions.WithLabelValues(l.name, to.String()).Inc()
}

// class is 2xx to 5xx, or the verdict where there was no answer.
func class(status int, otherwise string) string {
	if status < 100 || status > 599 {
		return otherwise
	}
	return strconv.Itoa(status/100) + "xx"
}

// counted counts the answers of a handler.
func (m *metrics) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(sw, r)
		m.requests.WithLabelValues("publish", class(sw.status, "other")).Inc()
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader is part of http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
