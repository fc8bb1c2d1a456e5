package bus

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are shared by all buses of one registry.
type metrics struct {
	stored, duplicate, refused, unavailable prometheus.Counter
	batches                                 prometheus.Histogram
	commit                                  prometheus.Histogram
	split, retried                          prometheus.Counter
	queue                                   prometheus.Gauge
	queueFull                               prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	publishes := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_bus_publishes_total", Help: "Events published, by result.",
	}, []string{"result"}))
	return &metrics{
		stored:      publishes.WithLabelValues("stored"),
		duplicate:   publishes.WithLabelValues("duplicate"),
		refused:     publishes.WithLabelValues("rejected"),
		unavailable: publishes.WithLabelValues("unavailable"),
		batches: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weft_bus_commit_events", Help: "Events per commit.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000},
		})),
		commit: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weft_bus_commit_seconds", Help: "Time from sending a commit to its last acknowledgement.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		})),
		split: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_bus_batches_split_total", Help: "Batches refused by the server and committed in parts.",
		})),
		retried: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_bus_publish_retries_total", Help: "Events sent again because no answer came.",
		})),
		queue: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_bus_queue_events", Help: "Events waiting for their commit.",
		})),
		queueFull: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_bus_queue_full_total", Help: "Publishes that had to wait because the queue was full.",
		})),
	}
}

// register lets several buses of one process share their collectors.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](reg.Register(c)); ok {
		if old, ok := already.ExistingCollector.(C); ok {
			return old
		}
	}
	return c
}
