package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"weft.dev/weft/event"
)

// PublishConfig is the scenario "publish".
type PublishConfig struct {
	Load
	Subject string
	Compare string // base URL of a second node; empty: no comparison
	Rounds  int    // alternating rounds of a comparison, sharing Duration and Warmup
}

// DefaultPublish is 64 connections for ten seconds.
func DefaultPublish() PublishConfig {
	return PublishConfig{
		Load:    Load{Duration: 10 * time.Second, Warmup: 2 * time.Second, Size: 256, Connections: 64},
		Subject: "load.publish",
		Rounds:  5,
	}
}

// Validate names every setting that cannot work.
func (c PublishConfig) Validate() error {
	errs := []error{
		c.validate(),
		event.CheckSubject(c.Subject),
		check(c.Connections <= maxStreams, "connections", fmt.Sprintf("at most %d", maxStreams)),
		check(c.Rounds > 0 && c.Rounds <= 100, "rounds", "1 to 100"),
	}
	if c.Compare != "" {
		errs = append(errs, checkServer("compare", c.Compare))
	}
	return errors.Join(errs...)
}

// Publish runs the scenario. A progress line goes to progress, if not nil, each
// second. When ctx ends early the report covers the time until then.
func Publish(ctx context.Context, cfg PublishConfig, progress io.Writer) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	if cfg.Compare != "" {
		return compare(ctx, cfg, progress)
	}
	p, err := cfg.round(ctx, newRun(), progress)
	if err != nil {
		return Report{}, err
	}
	return p.report("publish", Setting{"subject", cfg.Subject}), nil
}

// round publishes once with the settings of cfg.
func (c PublishConfig) round(ctx context.Context, run string, progress io.Writer) (*pump, error) {
	streams := make([]*stream, c.Connections)
	for i := range streams {
		streams[i] = &stream{key: i, subject: c.Subject}
	}
	p, err := newPump(c.Load, run, streams)
	if err != nil {
		return nil, err
	}
	rate := perSecond(p.expected)
	stop := watch(progress, "publish", func() string {
		return fmt.Sprintf("%8.0f events/s  errors %d", rate(), p.errs.total())
	})
	defer stop()
	return p, p.work(ctx)
}

// side collects the rounds against one node.
type side struct {
	seconds  float64
	accepted uint64
	latency  *histogram
	errs     map[string]uint64
	cpu      time.Duration
}

func (s *side) add(p *pump) (rate float64) {
	seconds := p.window().seconds()
	if seconds <= 0 {
		return 0
	}
	s.seconds += seconds
	s.accepted += p.accepted.Load()
	s.latency.merge(p.latency)
	s.errs = p.errs.into(s.errs)
	s.cpu += p.cpu
	return float64(p.accepted.Load()) / seconds
}

func (s *side) rate() float64 { return float64(s.accepted) / max(s.seconds, 1e-9) }

// compare alternates rounds against both nodes, each round in the opposite order
// of the one before, so that what the machine does beside falls on both alike.
func compare(ctx context.Context, cfg PublishConfig, progress io.Writer) (Report, error) {
	run := newRun()
	servers := [2]string{cfg.Server, cfg.Compare}
	sides := [2]*side{{latency: newHistogram()}, {latency: newHistogram()}}
	one := cfg
	one.Duration /= time.Duration(cfg.Rounds)
	one.Warmup /= time.Duration(cfg.Rounds)
	var ratios []float64
	for round := 0; round < cfg.Rounds && ctx.Err() == nil; round++ {
		var rates [2]float64
		for turn := range 2 {
			i := (turn + round) % 2
			one.Server = servers[i]
			p, err := one.round(ctx, run, progress)
			if err != nil {
				return Report{}, err
			}
			rates[i] = sides[i].add(p)
		}
		ratios = append(ratios, rates[0]/max(rates[1], 1e-9))
	}
	a, b := sides[0], sides[1]
	r := Report{
		Scenario: "publish", Run: run, Server: cfg.Server, Seconds: a.seconds, Accepted: a.accepted,
		Rate: a.rate(), Latency: a.latency.summary(), Errors: a.errs, ClientCPU: a.cpu.Seconds(),
		Settings: append([]Setting{{"subject", cfg.Subject}, {"rounds", fmt.Sprint(cfg.Rounds)}}, cfg.settings()...),
	}
	for kind, n := range b.errs {
		if r.Errors == nil {
			r.Errors = make(map[string]uint64)
		}
		r.Errors["compared: "+kind] += n
	}
	theirs := b.latency.summary()
	r.Compare = &Comparison{
		Server: cfg.Compare, Accepted: b.accepted, Rate: b.rate(), Latency: theirs, MeasuredIn: b.seconds,
		Ratio: a.rate() / max(b.rate(), 1e-9), P50Ratio: r.Latency.P50 / max(theirs.P50, 1e-9), Rounds: ratios,
	}
	return r, nil
}
