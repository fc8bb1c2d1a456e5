package gateway

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the gateway; the hot ones are resolved once.
type metrics struct {
	connections   prometheus.Gauge
	streams       prometheus.Gauge
	subscriptions prometheus.Gauge
	refused       prometheus.Counter
	closed        *prometheus.CounterVec
	delivered     prometheus.Counter
	bytes         prometheus.Counter
	frames        prometheus.Counter
	history       prometheus.Counter
	parks         prometheus.Counter
	gaps          *prometheus.CounterVec
	resumes       *prometheus.CounterVec
	receipts      prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	return &metrics{
		connections:   gauge("weft_ws_connections", "WebSocket connections that are open."),
		streams:       gauge("weft_gateway_sse_connections", "Server-sent event streams that are open."),
		subscriptions: gauge("weft_ws_subscriptions", "Subscriptions of WebSocket and SSE connections."),
		refused:       counter("weft_gateway_refused_connections_total", "Connections refused at the limit."),
		closed:        vec("weft_ws_closed_total", "WebSocket connections that have ended, by close code.", "code"),
		delivered:     counter("weft_gateway_deliveries_total", "Events written to WebSocket and SSE connections."),
		bytes:         counter("weft_gateway_delivered_bytes_total", "Bytes of these events."),
		frames:        counter("weft_gateway_frames_total", "Writes that carried them."),
		history:       counter("weft_gateway_history_pages_total", "Pages read from the stream for subscriptions behind the tail."),
		parks:         counter("weft_gateway_parks_total", "Subscriptions that fell out of the tail and went on from history."),
		gaps:          vec("weft_gateway_gaps_total", "Gaps told to subscribers, by reason.", "why"),
		resumes:       vec("weft_ws_resumes_total", "Subscriptions that began at a cursor, by result.", "result"),
		receipts: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "weft_ws_receipt_seconds",
			Help:    "Time from the frame to the handler in the browser, as clients report it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14), // 1 ms to 8 s
		}),
	}
}

func (m *metrics) close(code int) { m.closed.WithLabelValues(strconv.Itoa(code)).Inc() }

// resumed counts a subscription that began at a cursor.
func (m *metrics) resumed(st start, lost *gap) {
	switch {
	case st.kind != startAfter:
	case lost != nil:
		m.resumes.WithLabelValues("gap").Inc()
	default:
		m.resumes.WithLabelValues("complete").Inc()
	}
}
