package bridge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"weft.dev/weft/bridge"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/kafka"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
)

// The rate at which a bridge carries b.N events of 512 bytes out to Kafka and
// back in, both in this process.
func BenchmarkKafka(b *testing.B) {
	n := wefttest.Node(b)
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "out"))
	if err != nil {
		b.Fatal(err)
	}
	defer fake.Close()
	c := kafka.Cluster{Brokers: fake.ListenAddrs()}
	pubs := make([]bus.Publication, 0, 1000)
	for i := range b.N {
		pubs = append(pubs, bus.Publication{Subject: "orders.created", Event: event.Event{
			ID: fmt.Sprint(i), Source: "/s", Type: "t", Data: make([]byte, 512), Extensions: map[string]string{"partitionkey": fmt.Sprint(i % 100)},
		}})
		if len(pubs) == cap(pubs) || i == b.N-1 {
			for _, r := range n.PublishAll(b.Context(), pubs) {
				if r.Err != nil {
					b.Fatal(r.Err)
				}
			}
			pubs = pubs[:0]
		}
	}
	for _, bm := range []struct {
		name string
		cfg  bridge.Config
	}{
		{"out", bridge.Config{Name: "out", From: bridge.From{Mesh: &bridge.MeshSource{Subjects: []string{"orders.>"}}}, To: bridge.To{Kafka: &kafka.SinkConfig{Cluster: c, Topic: driver.MustParse("out")}}}},
		{"in", bridge.Config{Name: "in", From: bridge.From{Kafka: &kafka.SourceConfig{Cluster: c, Topics: []string{"out"}}}, To: bridge.To{Mesh: &bridge.MeshSink{Subject: driver.MustParse("back.all")}}}},
	} {
		began := time.Now()
		s, _, stop := run(b, n, bm.cfg)
		wefttest.Eventually(b, patience, bm.name, func() bool { return s.Status(b.Context())[0].Stored >= uint64(b.N) })
		b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), bm.name+"/s")
		stop()
	}
}
