package webhook

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	attempts  *prometheus.CounterVec // result, status_class
	duration  prometheus.Histogram
	pending   prometheus.Gauge
	oldest    prometheus.Gauge
	endpoints *prometheus.GaugeVec   // state
	lost      *prometheus.CounterVec // reason
	leading   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		attempts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_webhook_attempts_total", Help: "Delivery attempts by result and status class.",
		}, []string{"result", "status_class"}),
		duration: f.NewHistogram(prometheus.HistogramOpts{
			Name: "weft_webhook_attempt_duration_seconds", Help: "Time of one attempt until its answer was read.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		pending: f.NewGauge(prometheus.GaugeOpts{
			Name: "weft_webhook_pending", Help: "Events that wait in memory or as stored retries; events behind the cursor of a lagging endpoint are not counted.",
		}),
		oldest: f.NewGauge(prometheus.GaugeOpts{
			Name: "weft_webhook_oldest_pending_seconds", Help: "How long the oldest endpoint with something to send has been waiting or failing.",
		}),
		endpoints: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_webhook_endpoints", Help: "Endpoints by state, on the node that delivers.",
		}, []string{"state"}),
		lost: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_webhook_undelivered_total", Help: "Events given up, by reason: exhausted, aborted by the receiver, or expired from the stream before they could be sent.",
		}, []string{"reason"}),
		leading: f.NewGauge(prometheus.GaugeOpts{
			Name: "weft_webhook_delivering", Help: "1 on the node of the site that delivers webhooks.",
		}),
	}
}

func statusClass(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return strconv.Itoa(status/100) + "xx"
}
