package mesh_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// A sidecar's connection lives through a restart of its node: what it published
// is stored once, and its reader and consumer see all of it in order.
func TestRemoteSurvivesRestart(t *testing.T) {
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = "127.0.0.1:0"
	deps := wefttest.Deps(t, "a")
	n, stop := wefttest.StartStop(t, cfg, deps)
	defer func() { stop() }()
	cfg.Client.Listen = n.ClientURL()[len("nats://"):]
	b, err := bus.Dial(t.Context(), bus.Config{URL: n.ClientURL(), Name: "sidecar"}, wefttest.Deps(t, "a").Scope)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Conn().Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	const count = 400
	var read, consumed record
	wg.Go(func() { _ = b.Run(ctx) })
	wg.Go(func() {
		_ = b.Read(ctx, bus.ReadConfig{}, func(s event.Stored) error { read.add(s.ID); return nil })
	})
	wg.Go(func() {
		_ = b.Consume(ctx, bus.ConsumeConfig{Durable: "app", From: "all"}, func(_ context.Context, d *bus.Delivery) error {
			consumed.add(d.ID)
			return d.Ack()
		})
	})
	published := make(chan error, 1)
	half := make(chan struct{})
	go func() {
		for i := range count {
			e := event.Event{ID: fmt.Sprint(i)}
			e.Fill(event.Defaults{Subject: "orders.created", Source: "/test", Now: time.Now()})
			if _, err := b.Publish(ctx, bus.Publication{Subject: "orders.created", Event: e}); err != nil {
				published <- err
				return
			}
			if i == count/2 {
				close(half)
			}
		}
		published <- nil
	}()
	<-half
	stop()
	n, stop = wefttest.StartStop(t, cfg, deps)
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	if got := ids(t, n.Bus())["a"]; len(got) != count {
		t.Errorf("%d events stored, want %d", len(got), count)
	}
	wefttest.Eventually(t, 30*time.Second, "all read and consumed", func() bool { return read.len() >= count && consumed.distinct() >= count })
	for i, id := range read.all() {
		if id != fmt.Sprint(i) {
			t.Fatalf("read %s at place %d", id, i)
		}
	}
}

// record collects ids from a handler's goroutine.
type record struct {
	mu  sync.Mutex
	ids []string
}

func (r *record) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, id)
}

func (r *record) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids
}

func (r *record) len() int { return len(r.all()) }

func (r *record) distinct() int {
	seen := map[string]bool{}
	for _, id := range r.all() {
		seen[id] = true
	}
	return len(seen)
}
