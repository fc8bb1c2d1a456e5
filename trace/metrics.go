package trace

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type storeMetrics struct {
	stored  prometheus.Counter
	dropped *prometheus.CounterVec
}

func newStoreMetrics(reg prometheus.Registerer, s *Store) storeMetrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weft_trace_store_spans", Help: "Spans in the trace store.",
	}, func() float64 { return float64(s.Stats().Spans) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weft_trace_store_bytes", Help: "Estimated memory of the trace store.",
	}, func() float64 { return float64(s.Stats().Bytes) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weft_trace_store_oldest_seconds", Help: "Age of the oldest trace in the trace store.",
	}, func() float64 { return s.Stats().Oldest.Seconds() })
	return storeMetrics{
		stored: f.NewCounter(prometheus.CounterOpts{
			Name: "weft_trace_store_added_spans_total", Help: "Spans taken into the trace store.",
		}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_trace_store_dropped_spans_total",
			Help: "Spans refused by the trace store (invalid, trace_full) or removed at a limit (age, spans, bytes).",
		}, []string{"reason"}),
	}
}

// pipeMetrics count what the batching processor of a provider does. Several providers of one process may share a
// registry and then share the counters.
type pipeMetrics struct {
	ended   prometheus.Counter
	dropped *prometheus.CounterVec
}

func newPipeMetrics(reg prometheus.Registerer) pipeMetrics {
	return pipeMetrics{
		ended: shared(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_trace_spans_total", Help: "Sampled spans that ended in this process.",
		})),
		dropped: shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_trace_dropped_spans_total",
			Help: "Sampled spans lost before any store: queue_full (batches too slow) or upload (the next hop refused them).",
		}, []string{"reason"})),
	}
}

// shared registers c, or returns the equal collector that is registered already.
func shared[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	var taken prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &taken) {
		if existing, ok := taken.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}

type exportMetrics struct {
	sent    prometheus.Counter
	dropped *prometheus.CounterVec
}

func newExportMetrics(reg prometheus.Registerer) exportMetrics {
	f := promauto.With(reg)
	return exportMetrics{
		sent: f.NewCounter(prometheus.CounterOpts{
			Name: "weft_trace_export_spans_total", Help: "Spans the OTLP receiver accepted.",
		}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_trace_export_dropped_spans_total",
			Help: "Spans not exported: queue_full, refused (the receiver said no) or unreachable (retries used up).",
		}, []string{"reason"}),
	}
}
