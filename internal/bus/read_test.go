package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
)

func fill(t *testing.T, b *bus.Bus, subject string, from, to int) {
	t.Helper()
	var ps []bus.Publication
	for i := from; i < to; i++ {
		e := make1(fmt.Sprintf("%s-%d", subject, i))
		ps = append(ps, bus.Publication{Subject: subject, Event: e})
	}
	for _, r := range b.PublishAll(t.Context(), ps) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

var errEnough = errors.New("enough")

func TestRead(t *testing.T) {
	b := wefttest.Node(t)
	fill(t, b, "orders.created", 0, 50)
	fill(t, b, "stock.moved", 0, 50)
	fill(t, b, "orders.updated", 0, 50)
	tests := []struct {
		name        string
		give        bus.ReadConfig
		first, last uint64
		count       int
	}{
		{"all", bus.ReadConfig{}, 1, 150, 150},
		{"patterns", bus.ReadConfig{Patterns: []string{"orders.created", "orders.updated"}}, 1, 150, 100},
		{"wildcard after", bus.ReadConfig{Patterns: []string{"orders.>"}, After: 10}, 11, 150, 90},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []event.Stored
			err := b.Read(t.Context(), tt.give, func(s event.Stored) error {
				got = append(got, s)
				if len(got) == tt.count {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				t.Fatalf("err = %v", err)
			}
			if got[0].Seq != tt.first || got[len(got)-1].Seq != tt.last {
				t.Errorf("read %d to %d, want %d to %d", got[0].Seq, got[len(got)-1].Seq, tt.first, tt.last)
			}
			if s := got[0]; s.Path != "orders.created" || s.Origin != "test" || s.Accepted.IsZero() || s.StoredAt.Before(s.Accepted) || len(s.Headers) != 0 {
				t.Errorf("event = %+v", s)
			}
		})
	}
}

func TestReadOnlyNew(t *testing.T) {
	b := wefttest.Node(t)
	fill(t, b, "orders.created", 0, 10)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan event.Stored, 10)
	done := make(chan error, 1)
	go func() {
		done <- b.Read(ctx, bus.ReadConfig{After: math.MaxUint64}, func(s event.Stored) error {
			got <- s
			return nil
		})
	}()
	// The reader's start is not visible from outside: publish until it hears.
	var s event.Stored
	for i := 10; s.ID == ""; i++ {
		fill(t, b, "orders.created", i, i+1)
		select {
		case s = <-got:
		case <-time.After(50 * time.Millisecond):
		}
	}
	if s.Seq < 11 {
		t.Errorf("read old event %d", s.Seq)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("err = %v", err)
	}
}

func TestPage(t *testing.T) {
	b := wefttest.Node(t)
	if events, next, err := b.Page(t.Context(), bus.PageConfig{}); err != nil || len(events) != 0 || next != 0 {
		t.Errorf("empty stream: %d events, next %d, %v", len(events), next, err)
	}
	fill(t, b, "orders.created", 0, 100)
	fill(t, b, "stock.moved", 0, 100)
	tests := []struct {
		name  string
		give  bus.PageConfig
		count int
		next  uint64
	}{
		{"max", bus.PageConfig{Max: 10}, 10, 10},
		{"up to", bus.PageConfig{After: 10, UpTo: 20}, 10, 20},
		{"rest", bus.PageConfig{After: 150}, 50, 200},
		{"pattern", bus.PageConfig{Pattern: "stock.>", Max: 7}, 7, 107},
		{"pattern that ends", bus.PageConfig{Pattern: "orders.*", After: 90, UpTo: 200}, 10, 200},
		{"nothing matches", bus.PageConfig{Pattern: "none", UpTo: 120}, 0, 120},
		{"nothing left", bus.PageConfig{After: 200}, 0, 200},
		{"empty range", bus.PageConfig{After: 20, UpTo: 10}, 0, 20},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events, next, err := b.Page(t.Context(), tt.give)
			if err != nil || len(events) != tt.count || next != tt.next {
				t.Errorf("%d events, next %d, %v; want %d, next %d", len(events), next, err, tt.count, tt.next)
			}
		})
	}
}

// Stored headers with the names of the server's own neither end a page nor move it.
func TestPageForgedHeaders(t *testing.T) {
	b := wefttest.Node(t)
	fill(t, b, "orders.created", 0, 1)
	m := nats.NewMsg("ev.test.orders.created")
	m.Header = nats.Header{"Status": {"404"}, "Nats-Sequence": {"900"}, "Nats-Num-Pending": {"0"}, "Nats-Time-Stamp": {"x"}, "Nats-Subject": {"ev.test.a"}}
	if _, err := b.JetStream().PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	fill(t, b, "orders.created", 1, 2)
	events, next, err := b.Page(t.Context(), bus.PageConfig{})
	if err != nil || len(events) != 3 || next != 3 || events[1].Path != "orders.created" {
		t.Errorf("%d events, next %d, %v; want 3, next 3", len(events), next, err)
	}
	count, first, err := b.Behind(t.Context(), "ev.>", 1)
	if err != nil || count != 2 || first.Seq != 2 {
		t.Errorf("behind %d, first %d, %v; want 2, first 2", count, first.Seq, err)
	}
}

func TestConsume(t *testing.T) {
	b := wefttest.Node(t)
	fill(t, b, "orders.created", 0, 5)
	cfg := bus.ConsumeConfig{Durable: "app", Patterns: []string{"orders.>"}, From: "all"}
	var got []uint64
	err := b.Consume(t.Context(), cfg, func(_ context.Context, d *bus.Delivery) error {
		switch {
		case d.Seq == 2 && d.Attempt == 1:
			return d.Nak(0)
		case d.Seq == 3:
			got = append(got, d.Seq)
			return d.Term("poison")
		}
		got = append(got, d.Seq)
		if err := d.Ack(); err != nil {
			return err
		}
		if len(got) == 5 {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) || len(got) != 5 {
		t.Fatalf("got %v, %v", got, err)
	}
	// The position is kept; patterns may change.
	fill(t, b, "stock.moved", 0, 1)
	cfg.Patterns = []string{"orders.>", "stock.>"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fill(t, b, "orders.created", 5, 6)
	var next []string
	err = b.Consume(ctx, cfg, func(_ context.Context, d *bus.Delivery) error {
		next = append(next, d.ID)
		if d.ID == "orders.created-5" {
			cancel()
		}
		return d.Ack()
	})
	if err != nil || len(next) == 0 || len(next) > 2 {
		t.Errorf("then %v, %v", next, err)
	}
}
