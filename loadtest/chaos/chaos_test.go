package chaos_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/loadtest/chaos"
)

func TestPlan(t *testing.T) {
	cfg := chaos.Default()
	cfg.Edges, cfg.Duration, cfg.Faults, cfg.Seed = 2, 30*time.Minute, 70, 7
	plan := chaos.Plan(cfg)
	if diff := cmp.Diff(plan, chaos.Plan(cfg)); diff != "" {
		t.Errorf("the same seed gives another schedule:\n%s", diff)
	}
	cfg.Seed++
	if cmp.Equal(plan, chaos.Plan(cfg)) {
		t.Error("another seed gives the same schedule")
	}
	if len(plan) < 60 {
		t.Errorf("%d faults, want 60 and more", len(plan))
	}
	count := map[chaos.Kind]int{}
	until := map[string]time.Duration{}
	for _, f := range plan {
		count[f.Kind]++
		if f.At < until[f.Target]-100*time.Millisecond {
			t.Errorf("%s: its target is taken until %s", f, until[f.Target])
		}
		until[f.Target] = f.At + f.Rest()
		if f.At > cfg.Duration-10*time.Second {
			t.Errorf("%s: too late", f)
		}
		if strings.HasPrefix(f.Target, "edge") && !f.OnLink() && f.Kind != chaos.KillSite && f.Kind != chaos.Pause && f.Kind != chaos.FullDisk {
			t.Errorf("%s: an edge has one node", f)
		}
	}
	for _, k := range []chaos.Kind{
		chaos.KillLeader, chaos.KillNode, chaos.KillSite, chaos.RollingRestart, chaos.Pause, chaos.FullDisk, chaos.Cut, chaos.BlackHole, chaos.Slow,
	} {
		if count[k] < 3 {
			t.Errorf("%d times %s", count[k], k)
		}
	}
}

func TestJudge(t *testing.T) {
	type counts struct{ Lost, Duplicated, Disordered, Extra uint64 }
	tests := []struct {
		name                 string
		batch                int
		accepted, torn, seen []uint64
		want                 counts
	}{
		{name: "all there", batch: 1, accepted: []uint64{0, 1, 2}, seen: []uint64{0, 1, 2}},
		{name: "lost", batch: 1, accepted: []uint64{0, 1, 2, 200}, seen: []uint64{0, 2}, want: counts{Lost: 2}},
		{name: "twice", batch: 1, accepted: []uint64{0, 1}, seen: []uint64{0, 1, 1, 0}, want: counts{Duplicated: 2}},
		{name: "out of order", batch: 1, accepted: []uint64{0, 1, 2}, seen: []uint64{1, 2, 0}, want: counts{Disordered: 1}},
		{name: "unacknowledged may be there", batch: 1, accepted: []uint64{0, 2}, seen: []uint64{0, 2, 1}, want: counts{Extra: 1}},
		{name: "unacknowledged twice", batch: 1, accepted: []uint64{0}, seen: []uint64{0, 1, 1}, want: counts{Extra: 1, Duplicated: 1}},
		{name: "order in a torn batch", batch: 2, accepted: []uint64{0, 1, 2, 3}, torn: []uint64{0}, seen: []uint64{1, 0, 3, 2}, want: counts{Disordered: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := chaos.Judge(tt.batch, tt.accepted, tt.torn, tt.seen)
			if diff := cmp.Diff(tt.want, counts{r.Lost, r.Duplicated, r.Disordered, r.Extra}); diff != "" {
				t.Error(diff)
			}
			failure := chaos.Report{Accepted: 1, Stored: []chaos.Row{r}}.Failure()
			if broken := r.Lost+r.Duplicated+r.Disordered > 0; (failure != nil) != broken {
				t.Errorf("broken is %t, the report says %v", broken, failure)
			}
		})
	}
}

func TestFailure(t *testing.T) {
	tests := []struct {
		name string
		give chaos.Report
		want string
	}{
		{"nothing accepted", chaos.Report{}, "no event was accepted"},
		{"failed publish", chaos.Report{Accepted: 1, Failed: []chaos.Failure{{}}}, "1 failed publishes"},
		{"problem", chaos.Report{Accepted: 1, Problems: []string{"node a-1 ended by itself"}}, "node a-1 ended by itself"},
		{"consumer missed one", chaos.Report{Accepted: 1, Live: []chaos.Row{{Lost: 1}}}, "consumed: 1 lost"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.give.Failure(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

// The network between two sites does what the faults say.
func TestLine(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	l, err := chaos.NewLine(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dial(t, l)
	if err := echo(c, 5*time.Second); err != nil {
		t.Fatalf("open: %v", err)
	}

	l.Cut()
	if err := echo(c, 5*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("cut: a connection says %v, want that it ends", err)
	}
	if c, err := net.Dial("tcp", l.Addr); err == nil {
		c.Close()
		t.Error("cut: a new connection is taken")
	}
	if err := l.Mend(t.Context()); err != nil {
		t.Fatal(err)
	}

	c = dial(t, l)
	if err := echo(c, 5*time.Second); err != nil {
		t.Fatalf("mended: %v", err)
	}
	l.Hold()
	if err := echo(c, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("held: %v, want that nothing comes", err)
	}
	l.Release()
	if err := receive(c, 5*time.Second); err != nil {
		t.Errorf("released: what was held does not come: %v", err)
	}
	l.Hold()
	l.Release()
	l.Reset()
	if err := echo(c, 5*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reset: %v, want that the connection ends", err)
	}

	c = dial(t, l)
	const delay = 50 * time.Millisecond
	l.Slow(delay, 1e6)
	start := time.Now()
	if err := echo(c, 5*time.Second); err != nil || time.Since(start) < 2*delay {
		t.Errorf("slow: %v after %s, want no sooner than %s", err, time.Since(start), 2*delay)
	}
}

func dial(t *testing.T, l chaos.Line) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

const word = "hello"

func echo(c net.Conn, wait time.Duration) error {
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	return receive(c, wait)
}

func receive(c net.Conn, wait time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !slices.Equal(got, []byte(word)) {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

func TestValidate(t *testing.T) {
	tests := []struct {
		field  string
		change func(*chaos.Config)
	}{
		{"sites", func(c *chaos.Config) { c.Sites = 0 }},
		{"nodes", func(c *chaos.Config) { c.Nodes = 2 }},
		{"edges", func(c *chaos.Config) { c.Edges = -1 }},
		{"homes", func(c *chaos.Config) { c.Homes = 0 }},
		{"duration", func(c *chaos.Config) { c.Duration = time.Second }},
		{"rate", func(c *chaos.Config) { c.Rate = 0 }},
		{"batch", func(c *chaos.Config) { c.Batch = 0 }},
		{"only", func(c *chaos.Config) { c.Only = "flood" }},
	}
	for _, tt := range tests {
		t.Run(tt.field, func(t *testing.T) {
			cfg := chaos.Default()
			if err := cfg.Validate(); err != nil {
				t.Fatalf("the default: %v", err)
			}
			tt.change(&cfg)
			if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), tt.field) {
				t.Errorf("%v, want an error that names %s", err, tt.field)
			}
		})
	}
}
