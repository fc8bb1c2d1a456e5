// Package idle is the scenario behind `weft load idle`: it starts sites of real
// nodes that have nothing to do and reports what memory they hold, after their
// start and after a load. It measures resident memory as Linux counts it
// (/proc/PID/status) and nothing else. No compatibility promise.
package idle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"text/tabwriter"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/loadtest"
)

// Config is one run.
type Config struct {
	Binary string          // weft
	Dir    string          // where the nodes' folders are made; empty: the system's temporary folder
	Sizes  []int           // nodes of each site; one site at a time
	After  []time.Duration // when to look, after the start and after the load
	Load   time.Duration   // of publishing; 0: none
	Rate   float64         // events per second while publishing
	Most   int             // kB that a node may hold at any look; 0: no limit
}

// Default measures a single node and a site of three at 10 and 60 s.
func Default() Config {
	return Config{Sizes: []int{1, 3}, After: []time.Duration{10 * time.Second, time.Minute}, Rate: 10_000}
}

// Validate names the setting at fault.
func (c Config) Validate() error {
	var errs []error
	want := func(ok bool, field, text string) {
		if !ok {
			errs = append(errs, event.Reject(field, text))
		}
	}
	want(len(c.Sizes) > 0, "sizes", "at least one size")
	for _, n := range c.Sizes {
		want(n == 1 || n >= 3 && n <= 9, "sizes", "1, or 3 to 9 nodes")
	}
	want(len(c.After) > 0, "after", "at least one time")
	for i, d := range c.After {
		want(d > 0 && (i == 0 || d > c.After[i-1]), "after", "times that grow, such as 10s,60s")
	}
	want(c.Load >= 0 && c.Load <= time.Hour, "load", "0 to 1h")
	want(c.Rate > 0, "rate", "more than 0 events per second")
	want(c.Most >= 0, "most", "0 or more kB")
	return errors.Join(errs...)
}

// Memory is what one node held at one look, in kB.
type Memory struct {
	Size  int     `json:"nodes"` // of its site
	Node  string  `json:"node"`
	When  string  `json:"when"` // "start" or "load"
	After float64 `json:"seconds"`
	RSS   int     `json:"rssKB"`
	Anon  int     `json:"anonKB"` // heap and stacks
	File  int     `json:"fileKB"` // pages of the binary, shared by the nodes of a machine
}

// Report is the result.
type Report struct {
	Looks []Memory `json:"looks"`
	Most  int      `json:"mostKB,omitempty"`
}

// WriteText is for people.
func (r Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "nodes\tnode\tafter\tseconds\trss kB\theap and stacks\tbinary\t")
	for _, m := range r.Looks {
		fmt.Fprintf(t, "%d\t%s\t%s\t%.0f\t%d\t%d\t%d\t\n", m.Size, m.Node, m.When, m.After, m.RSS, m.Anon, m.File)
	}
	return t.Flush()
}

// Failure tells which node held more than it may.
func (r Report) Failure() error {
	var errs []error
	for _, m := range r.Looks {
		if r.Most > 0 && m.RSS > r.Most {
			errs = append(errs, fmt.Errorf("load idle: node %s of %d holds %d kB %.0f s after the %s, want at most %d", m.Node, m.Size, m.RSS, m.After, m.When, r.Most))
		}
	}
	return errors.Join(errs...)
}

// Run starts one site after the other and looks. Nothing is left of them.
func Run(ctx context.Context, cfg Config, progress io.Writer) (Report, error) {
	r := Report{Most: cfg.Most}
	if err := cfg.Validate(); err != nil {
		return r, err
	}
	if runtime.GOOS != "linux" {
		return r, fmt.Errorf("load idle: resident memory is read from /proc of Linux, this is %s", runtime.GOOS)
	}
	for _, size := range cfg.Sizes {
		fmt.Fprintf(progress, "site of %d\n", size)
		looks, err := measure(ctx, cfg, size)
		if err != nil {
			return r, fmt.Errorf("load idle: site of %d: %w", size, err)
		}
		r.Looks = append(r.Looks, looks...)
	}
	return r, nil
}

// measure runs one site of the size.
func measure(ctx context.Context, cfg Config, size int) (looks []Memory, err error) {
	dir, err := os.MkdirTemp(cfg.Dir, "weft-idle-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	nodes, err := makeSite(dir, size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopAll(nodes)) }()
	begun := time.Now()
	for _, n := range nodes {
		if err := n.start(cfg.Binary); err != nil {
			return nil, err
		}
	}
	for _, n := range nodes {
		if err := n.ready(ctx); err != nil {
			return nil, err
		}
	}
	looks, err = looker{cfg.After, nodes}.look(ctx, "start", begun)
	if err != nil || cfg.Load == 0 {
		return looks, err
	}
	load := loadtest.DefaultPublish()
	load.Server, load.Duration, load.Warmup, load.Rate = "http://"+nodes[0].gateway, cfg.Load, 0, cfg.Rate
	report, err := loadtest.Publish(ctx, load, io.Discard)
	if err := errors.Join(err, report.Failed()); err != nil {
		return nil, err
	}
	more, err := looker{cfg.After, nodes}.look(ctx, "load", time.Now())
	return append(looks, more...), err
}

// looker reads the memory of a site's nodes.
type looker struct {
	after []time.Duration
	nodes []*node
}

// look reads it at the given times after begun.
func (l looker) look(ctx context.Context, when string, begun time.Time) ([]Memory, error) {
	var out []Memory
	for _, d := range l.after {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Until(begun.Add(d))):
		}
		for _, n := range l.nodes {
			m := Memory{Size: len(l.nodes), Node: n.name, When: when, After: d.Seconds()}
			if err := n.memory(&m); err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	return out, nil
}
