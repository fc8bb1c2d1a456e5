package bridge_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"weft.dev/weft/bridge"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/kafka"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
)

// Bridges that are stopped and started while brokers cut connections and commits
// get lost: every event goes out and comes back, in order within its key.
func TestTroubleLosesNothing(t *testing.T) {
	const total, keys, restarts = 3000, 13, 6
	b := wefttest.Node(t)
	fake := cluster(t, kfake.SeedTopics(4, "out"))
	c := kafka.Cluster{Brokers: fake.ListenAddrs()}
	var trouble atomic.Bool
	trouble.Store(true)
	for _, key := range []kmsg.Key{kmsg.Produce, kmsg.OffsetCommit, kmsg.Fetch} {
		fake.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
			fake.KeepControl()
			if trouble.Load() && rand.IntN(8) == 0 {
				return nil, errors.New("cut"), true
			}
			return nil, nil, false
		})
	}
	done := make(chan error, 1)
	go func() { done <- publishSteadily(t.Context(), b, total, keys) }()
	cfgs := []bridge.Config{
		{Name: "out", From: bridge.From{Mesh: &bridge.MeshSource{Subjects: []string{"orders.>"}}}, To: bridge.To{Kafka: &kafka.SinkConfig{Cluster: c, Topic: driver.MustParse("out")}}},
		{Name: "in", From: bridge.From{Kafka: &kafka.SourceConfig{Cluster: c, Topics: []string{"out"}, Group: "g"}}, To: bridge.To{Mesh: &bridge.MeshSink{Subject: driver.MustParse("back.all")}}},
	}
	back := uint64(0) // on a slow machine all may be back before the last round
	for i := range restarts {
		s, _, stop := run(t, b, cfgs...)
		want, now := uint64(total/restarts/2), []bridge.Status(nil)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("round %d: %+v", i, now)
			}
		})
		wefttest.Eventually(t, patience, "progress in round "+strconv.Itoa(i), func() bool {
			now = s.Status(t.Context())
			return now[0].Stored+now[1].Stored >= want || back+now[1].Stored >= total
		})
		stop()
		back += s.Status(t.Context())[1].Stored
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	trouble.Store(false)
	run(t, b, cfgs...)
	seen, last, copies := map[int]bool{}, map[int]int{}, 0
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := b.Read(ctx, bus.ReadConfig{Patterns: []string{"back.>"}}, func(s event.Stored) error {
		n, err := strconv.Atoi(s.ID)
		if err != nil {
			return err
		}
		if copies++; seen[n] {
			return nil
		}
		seen[n] = true
		if before, ok := last[n%keys]; ok && n < before {
			t.Errorf("event %d first came after %d", n, before)
		}
		if last[n%keys] = n; len(seen) == total {
			cancel()
		}
		return nil
	})
	if len(seen) < total {
		t.Fatalf("%d of %d events came back: %v", len(seen), total, err)
	}
	t.Logf("%d events, %d duplicates after %d restarts", total, copies-total, restarts)
}

func publishSteadily(ctx context.Context, b *bus.Bus, total, keys int) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < total; {
		<-tick.C
		var pubs []bus.Publication
		for range 20 {
			pubs = append(pubs, bus.Publication{Subject: "orders.created", Event: event.Event{
				ID: strconv.Itoa(i), Source: "/s", Type: "t", Extensions: map[string]string{"partitionkey": strconv.Itoa(i % keys)},
			}})
			i++
		}
		for _, r := range b.PublishAll(ctx, pubs) {
			if r.Err != nil {
				return r.Err
			}
		}
	}
	return nil
}
