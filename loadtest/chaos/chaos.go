// Package chaos is `weft load chaos`: it runs a mesh of real nodes on this
// machine, publishes and consumes at every site, kills nodes and disturbs links
// by a schedule that a seed decides, and then holds what every site stores
// against what was acknowledged. It is no part of a node, touches nothing but
// the processes and folders it made, and makes no compatibility promise.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"weft.dev/weft/event"
)

// Config is one run.
type Config struct {
	Binary     string        // the weft executable that nodes run
	Sites      int           // core sites, each linked to each
	Nodes      int           // of each core site
	Edges      int           // sites of one node that dial core sites
	Homes      int           // core sites that each edge dials
	Duration   time.Duration // of the publishing; start, levelling and the verdict come on top
	Rate       float64       // events per second of all sites together
	Publishers int           // of each site; each keeps an order of its own
	Batch      int           // events in a request
	Size       int           // bytes of an event's data
	Faults     int           // in the duration
	Seed       uint64        // decides the schedule
	Only       Kind          // of fault, instead of all
	Timeout    time.Duration // of a publish with all its attempts
	Level      time.Duration // the most the sites may take to be level at the end
	Dir        string        // where the nodes' folders are made; empty: the system's
	Keep       bool          // leave configurations, data and logs
}

// Default is the run of CI: 3 sites of 3 nodes for 3 minutes.
func Default() Config {
	return Config{
		Sites: 3, Nodes: 3, Duration: 3 * time.Minute, Rate: 600, Publishers: 4, Batch: 1, Size: 128,
		Homes: 2, Faults: 12, Seed: 1, Timeout: 15 * time.Second, Level: 90 * time.Second,
	}
}

// Validate names every setting that cannot work.
func (c Config) Validate() error {
	_, only := spans[c.Only]
	return errors.Join(
		check(c.Sites >= 1 && c.Sites <= 9, "sites", "1 to 9"),
		check(c.Nodes == 1 || c.Nodes >= 3 && c.Nodes <= 9, "nodes", "1, or 3 to 9"),
		check(c.Edges >= 0 && c.Edges <= 9, "edges", "0 to 9"),
		check(c.Homes >= 1 && c.Homes <= 9, "homes", "1 to 9 core sites"),
		check(c.Duration >= minDuration && c.Duration <= 24*time.Hour, "duration", fmt.Sprintf("%s to 24h", minDuration)),
		check(c.Rate > 0 && c.Rate <= 1e6, "rate", "more than 0, at most 1000000 events per second"),
		check(c.Publishers >= 1 && c.Publishers <= 99, "publishers", "1 to 99 of each site"),
		check(c.Batch >= 1 && c.Batch <= 500, "batch", "1 to 500 events in a request"),
		check(c.Size >= 0 && c.Size <= 64<<10, "size", "0 to 65536 bytes"),
		check(c.Faults >= 0 && c.Faults <= 10_000, "faults", "0 to 10000"),
		check(c.Timeout >= time.Second, "timeout", "1s or more"),
		check(c.Level >= time.Second, "level", "1s or more"),
		check(only || c.Only == "", "only", "one kind of fault: "+Kinds()),
		check(c.Nodes >= 3 || c.Only != KillLeader && c.Only != KillNode && c.Only != RollingRestart, "nodes", "3 or more for --only "+string(c.Only)),
		check(c.Sites+c.Edges > 1 || !Fault{Kind: c.Only}.onLink(), "sites", "2 or more for --only "+string(c.Only)),
	)
}

// minDuration leaves room for one fault and its end.
const minDuration = 20 * time.Second

func check(ok bool, field, want string) error {
	if ok {
		return nil
	}
	return event.Reject(field, want)
}

// Run does one run. Progress goes to w. The error is what kept the run from a
// verdict; a broken promise is in the report.
func Run(ctx context.Context, cfg Config, w io.Writer) (_ Report, err error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	if !supported {
		return Report{}, fmt.Errorf("chaos stops and kills processes, which %s does not do as it needs", runtime.GOOS)
	}
	dir, err := os.MkdirTemp(cfg.Dir, "weft-chaos-*")
	if err != nil {
		return Report{}, fmt.Errorf("make the run's folder: %w", err)
	}
	if !cfg.Keep {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{cfg: cfg, w: &console{w: w, begin: time.Now()}, plan: plan(cfg)}
	if r.noDisks = mountable(dir); r.noDisks != nil {
		r.plan = withoutDisks(r.plan)
	}
	r.world, err = newWorld(cfg, dir)
	if err != nil {
		return Report{}, err
	}
	defer r.world.close()
	if err := r.world.addVolumes(r.plan); err != nil {
		return Report{}, err
	}
	if cfg.Keep {
		r.w.printf("data and logs are kept in %s", dir)
	}
	return r.all(ctx)
}

// run is a run while it lasts.
type run struct {
	cfg   Config
	w     *console
	plan  []Fault
	world *world

	noDisks error // why disks cannot be filled here; nil: they can

	began      time.Time // of the publishing
	outcomes   []*Outcome
	publishers []*publisher
	consumers  []*consumer
}

// all is the run from the nodes' start to the verdict.
func (r *run) all(ctx context.Context) (Report, error) {
	r.w.printf("seed %d, %d faults", r.cfg.Seed, len(r.plan))
	if fewer := r.cfg.Faults - len(r.plan); fewer > 0 {
		r.w.printf("%d more do not fit into %s: each leaves its site or link time to recover", fewer, r.cfg.Duration)
	}
	if r.noDisks != nil {
		r.w.printf("faults of kind %s are left out: no disk can be mounted here: %s", FullDisk, r.noDisks)
	}
	for _, f := range r.plan {
		r.w.printf("  planned %s", f)
	}
	start := time.Now()
	if err := r.world.start(ctx); err != nil {
		return Report{}, err
	}
	r.w.printf("%d nodes run and their links are up after %.1f s", len(r.world.nodes()), time.Since(start).Seconds())

	consuming, endConsumers := context.WithCancel(ctx)
	defer endConsumers()
	waitConsumers := r.consume(consuming)
	accepted := r.load(ctx)
	if ctx.Err() != nil {
		return Report{}, ctx.Err()
	}
	r.w.printf("published %d events; waiting until all sites have them", accepted)
	level, levelled := r.level(ctx)
	endConsumers()
	waitConsumers()
	if levelled {
		r.w.printf("all sites are level after %.1f s; reading every site once more", level.Seconds())
	} else {
		r.w.printf("the sites are not level after %.1f s; reading every site once more", level.Seconds())
	}
	stored, err := r.read(ctx)
	if err != nil {
		return Report{}, err
	}
	return r.report(stored, level, levelled), nil
}

// load publishes for the duration while the faults happen, and returns when the
// last of them is healed and every publish is settled.
func (r *run) load(ctx context.Context) (accepted uint64) {
	r.began = time.Now()
	publishing, endPublishers := context.WithCancel(ctx)
	defer endPublishers()
	waitPublishers := r.publish(publishing)
	stop := r.progress()
	r.disturb(ctx)
	_ = sleep(ctx, time.Until(r.began.Add(r.cfg.Duration)))
	endPublishers()
	waitPublishers()
	stop()
	for _, p := range r.publishers {
		accepted += p.acked.count()
	}
	return accepted
}

// progressEvery is how often a run says how it goes.
const progressEvery = 10 * time.Second

// progress writes a line now and then until stop is called.
func (r *run) progress() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		last := uint64(0)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			total, failed := uint64(0), 0
			for _, p := range r.publishers {
				total += p.acked.count()
				failed += len(p.failures())
			}
			r.w.printf("accepted %d (%.0f/s), failed publishes %d", total, float64(total-last)/progressEvery.Seconds(), failed)
			last = total
		}
	}()
	return func() { close(done); <-ended }
}

// sleep waits for d, or less when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// poll asks every interval until ok, and reports whether it came to that in time.
func poll(ctx context.Context, every time.Duration, ok func() bool) bool {
	for !ok() {
		if sleep(ctx, every) != nil {
			return false
		}
	}
	return true
}
