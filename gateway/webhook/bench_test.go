package webhook_test

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/internal/wefttest"
)

// BenchmarkDelivery is the whole way of stored events to real receivers: read,
// sign, POST, journal, acknowledge; sync always, receivers in the same process.
func BenchmarkDelivery(b *testing.B) {
	for name, endpoints := range map[string]int{"endpoints=1": 1, "endpoints=20": 20} {
		b.Run(name, func(b *testing.B) { deliver(b, endpoints) })
	}
}

func deliver(b *testing.B, endpoints int) {
	bs := wefttest.Node(b)
	cfg := webhook.DefaultConfig()
	cfg.AllowNetworks = config().AllowNetworks
	g := start(b, bs, cfg)
	var n atomic.Int64
	rc := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { n.Add(1) }))
	b.Cleanup(rc.Close)
	for range endpoints {
		g.create(map[string]any{"url": rc.URL, "subjects": []string{"a"}})
	}
	total := int64(0)
	publishAll := func(events int) {
		for ; events > 0; events -= 1000 {
			publish(b, bs, "a", min(events, 1000))
		}
	}
	publishAll(10) // warm connections
	total += 10 * int64(endpoints)
	wefttest.Eventually(b, time.Minute, "warm", func() bool { return n.Load() >= total })
	events := max(1, b.N/endpoints)
	runtime.GC()
	b.ResetTimer()
	began := time.Now()
	publishAll(events)
	total += int64(events * endpoints)
	wefttest.Eventually(b, 5*time.Minute, "all delivered", func() bool { return n.Load() >= total })
	b.ReportMetric(float64(events*endpoints)/time.Since(began).Seconds(), "deliveries/s")
	b.StopTimer()
	if n.Load() != total {
		b.Logf("%d duplicates", n.Load()-total)
	}
}
