package bridge

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of all bridges of a node; a bridge is a label.
type metrics struct {
	messages  *prometheus.CounterVec // direction in: read; out: stored, dead, dropped
	dead      *prometheus.CounterVec // reason
	dropped   *prometheus.CounterVec // reason: loop, hops
	retries   *prometheus.CounterVec
	restarts  *prometheus.CounterVec
	batch     *prometheus.HistogramVec
	write     *prometheus.HistogramVec
	inflight  *prometheus.GaugeVec
	connected *prometheus.GaugeVec
	lag       *prometheus.GaugeVec
	lagAge    *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	one := []string{"bridge"}
	return &metrics{
		messages: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_bridge_messages_total", Help: "Events by direction (in, out) and result (read, stored, dead, dropped).",
		}, []string{"bridge", "direction", "result"}),
		dead: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_bridge_dlq_messages_total", Help: "Events that became dead letters, by reason.",
		}, []string{"bridge", "reason"}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_bridge_dropped_total", Help: "Events dropped by the loop guard, by reason (loop, hops).",
		}, []string{"bridge", "reason"}),
		retries: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_bridge_retries_total", Help: "Writes tried again.",
		}, one),
		restarts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_bridge_restarts_total", Help: "Times the bridge was started again after an error.",
		}, one),
		batch: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_bridge_batch_size", Help: "Events in a write.", Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}, one),
		write: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_bridge_write_duration_seconds", Help: "Time of one write to the sink.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12),
		}, one),
		inflight: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_bridge_inflight", Help: "Events read and not settled.",
		}, one),
		connected: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_bridge_connected", Help: "1 while the bridge runs without trouble at either end.",
		}, one),
		lag: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_bridge_lag_messages", Help: "Events that wait behind the source.",
		}, one),
		lagAge: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_bridge_lag_seconds", Help: "Age of the oldest event read and not settled.",
		}, one),
	}
}

// counters are the metrics of one bridge, looked up once.
type counters struct {
	read, stored, dead, dropped   prometheus.Counter
	retries, restarts             prometheus.Counter
	batch, write                  prometheus.Observer
	inflight, connected, lag, age prometheus.Gauge
}

func (m *metrics) of(bridge string) counters {
	return counters{
		read:      m.messages.WithLabelValues(bridge, "in", "read"),
		stored:    m.messages.WithLabelValues(bridge, "out", "stored"),
		dead:      m.messages.WithLabelValues(bridge, "out", "dead"),
		dropped:   m.messages.WithLabelValues(bridge, "out", "dropped"),
		retries:   m.retries.WithLabelValues(bridge),
		restarts:  m.restarts.WithLabelValues(bridge),
		batch:     m.batch.WithLabelValues(bridge),
		write:     m.write.WithLabelValues(bridge),
		inflight:  m.inflight.WithLabelValues(bridge),
		connected: m.connected.WithLabelValues(bridge),
		lag:       m.lag.WithLabelValues(bridge),
		age:       m.lagAge.WithLabelValues(bridge),
	}
}
