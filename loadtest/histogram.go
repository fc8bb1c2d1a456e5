package loadtest

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are kept in microseconds with 3 digits up to a minute; longer ones
// count as a minute.
const maxLatency = time.Minute

// histogram is a latency histogram that many goroutines write to.
type histogram struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram // guarded by mu
}

func newHistogram() *histogram {
	return &histogram{h: hdrhistogram.New(1, maxLatency.Microseconds(), 3)}
}

func (h *histogram) record(d time.Duration) {
	us := min(max(d.Microseconds(), 1), maxLatency.Microseconds())
	h.mu.Lock()
	_ = h.h.RecordValue(us) // within its range
	h.mu.Unlock()
}

func (h *histogram) merge(other *histogram) {
	other.mu.Lock()
	defer other.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.h.Merge(other.h)
}

// Latency summarises a histogram, in milliseconds.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"meanMs"`
	P50   float64 `json:"p50Ms"`
	P90   float64 `json:"p90Ms"`
	P99   float64 `json:"p99Ms"`
	P999  float64 `json:"p999Ms"`
	Max   float64 `json:"maxMs"`
}

func (h *histogram) summary() Latency {
	h.mu.Lock()
	defer h.mu.Unlock()
	ms := func(us int64) float64 { return float64(us) / 1e3 }
	return Latency{
		Count: uint64(h.h.TotalCount()),
		Mean:  h.h.Mean() / 1e3,
		P50:   ms(h.h.ValueAtQuantile(50)),
		P90:   ms(h.h.ValueAtQuantile(90)),
		P99:   ms(h.h.ValueAtQuantile(99)),
		P999:  ms(h.h.ValueAtQuantile(99.9)),
		Max:   ms(h.h.Max()),
	}
}
