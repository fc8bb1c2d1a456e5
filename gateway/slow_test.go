package gateway_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/wefttest"
)

// TestSlowReader: a socket that stands still is parked in history while another
// gets everything at once; then it goes on where it stood, and misses nothing.
func TestSlowReader(t *testing.T) {
	const events = 6000
	m := newMemory()
	reg := prometheus.NewRegistry()
	addr := start(t, m, func(c *gateway.Config, d *gateway.Deps) {
		c.Tail.Events = 64
		d.Metrics = reg
	})
	slow, fast := dial(t, addr), dial(t, addr, "evs")
	for _, c := range []*client{slow, fast} {
		c.sub(map[string]any{"subject": ">"})
		c.want("live")
	}
	data := []byte(`"` + strings.Repeat("x", 2000) + `"`) // together more than the sockets' buffers
	go func() {
		for i := range events {
			m.append("a", event.Event{ID: fmt.Sprint(i), Source: "/t", Type: "t", Data: data})
		}
	}()
	for _, c := range []*client{fast, slow} {
		next := uint64(1)
		for next <= events {
			f := c.next()
			if f.T == "live" {
				continue
			}
			for _, p := range positions(t, f, f.S) {
				if seqOf(p) != next {
					t.Fatalf("event %s, want %d", p, next)
				}
				next++
			}
		}
	}
	if parks := value(t, reg, "weft_gateway_parks_total", ""); parks < 1 {
		t.Errorf("%v parks", parks)
	}
}

// TestStuckReader: a socket that takes nothing for the write timeout is closed
// and holds nothing.
func TestStuckReader(t *testing.T) {
	m := newMemory()
	reg := prometheus.NewRegistry()
	addr := start(t, m, func(c *gateway.Config, d *gateway.Deps) {
		c.WriteTimeout = conf.Duration(time.Second)
		d.Metrics = reg
	})
	c := dial(t, addr)
	c.sub(map[string]any{"subject": ">"})
	c.want("live")
	data := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	for i := range 200 {
		m.append("a", event.Event{ID: fmt.Sprint(i), Source: "/t", Type: "t", Data: data})
	}
	wefttest.Eventually(t, patience, "the socket to be closed", func() bool {
		return value(t, reg, "weft_ws_closed_total", "4008") == 1 && value(t, reg, "weft_ws_subscriptions", "") == 0
	})
}

// TestOvertaken: retention overtakes the gateway's own reader. What it never
// saw is told as a gap.
func TestOvertaken(t *testing.T) {
	m := newMemory()
	addr := start(t, m)
	c := dial(t, addr)
	c.sub(map[string]any{"subject": "a"})
	c.want("live")
	m.replace(10, 6, time.Now().Add(-time.Hour))
	if f := c.want("gap"); f.From != "1:1" || f.To != "1:5" || f.Why != "retention" {
		t.Errorf("gap %+v", f)
	}
	for seq := 6; seq <= 10; seq++ {
		if f := c.want("ev"); f.P != fmt.Sprintf("1:%d", seq) {
			t.Errorf("event %s, want %d", f.P, seq)
		}
	}
}

// value is that of a metric, by its only label's value if it has one.
func value(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || m.GetLabel()[0].GetValue() == label {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
