package bus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// benchmark publishes from 64 goroutines to a node that syncs every commit.
func benchmark(b *testing.B, staging string) {
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = ""
	cfg.Events.GroupCommit = staging != "off"
	if staging != "off" {
		cfg.Events.Staging = staging
	}
	n := wefttest.Start(b, cfg, wefttest.Deps(b, "bench"))
	var id atomic.Int64
	e := make1("x")
	e.Data = make([]byte, 256)
	e.Extensions = map[string]string{event.ExtCorrelationID: "4bf92f3577b34da6a3ce929d0e0e4736"}
	b.SetParallelism(32) // 64 on two cores
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e := e
			e.ID = fmt.Sprint(id.Add(1))
			if _, err := n.Bus().Publish(context.Background(), bus.Publication{Subject: "orders.created", Event: e}); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
