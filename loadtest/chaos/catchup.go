package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"text/tabwriter"
	"time"
)

// CatchUp is one measurement of how fast a site takes over what another has
// accepted while their link was cut.
type CatchUp struct {
	Binary string        // the weft executable that nodes run
	Nodes  int           // of each of the two sites
	Events int           // accepted while the link is cut
	Size   int           // bytes of an event's data
	RTT    time.Duration // of the link
	Rounds int
	Dir    string // where the nodes' folders are made; empty: the system's
}

// DefaultCatchUp is what the mesh's target is stated for.
func DefaultCatchUp() CatchUp {
	return CatchUp{Nodes: 1, Events: 300_000, Size: 128, RTT: 100 * time.Millisecond, Rounds: 3}
}

// Validate names every setting that cannot work.
func (c CatchUp) Validate() error {
	return errors.Join(
		check(c.Nodes == 1 || c.Nodes >= 3 && c.Nodes <= 9, "nodes", "1, or 3 to 9"),
		check(c.Events >= 1000 && c.Events <= 1e8, "events", "1000 to 100000000"),
		check(c.Size >= 0 && c.Size <= 64<<10, "size", "0 to 65536 bytes"),
		check(c.RTT >= 0 && c.RTT <= 2*time.Second, "rtt", "0s to 2s"),
		check(c.Rounds >= 1 && c.Rounds <= 100, "rounds", "1 to 100"),
	)
}

// CatchUpReport is what came of it.
type CatchUpReport struct {
	Events int            `json:"events"`
	RTT    float64        `json:"rttSeconds"`
	Cores  int            `json:"cores"`
	Rounds []CatchUpRound `json:"rounds"`
}

// CatchUpRound is one cut. Times are in seconds from its end.
type CatchUpRound struct {
	First float64 `json:"firstSeconds"` // until the first event was seen
	Level float64 `json:"levelSeconds"` // until the last one was
	Rate  float64 `json:"eventsPerSecond"`
}

// WriteText writes the report for a terminal.
func (r CatchUpReport) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "%d events behind, round trip %.0f ms, both sites on %d cores\n\n", r.Events, 1000*r.RTT, r.Cores)
	fmt.Fprintln(tw, "round\tfirst after\tlevel after\tevents/s from the first")
	for i, round := range r.Rounds {
		fmt.Fprintf(tw, "%d\t%.2f s\t%.2f s\t%.0f\n", i+1, round.First, round.Level, round.Rate)
	}
	return tw.Flush()
}

// Run measures. Progress goes to w.
func (c CatchUp) Run(ctx context.Context, w io.Writer) (rep CatchUpReport, err error) {
	if err := c.Validate(); err != nil {
		return rep, err
	}
	if !supported {
		return rep, fmt.Errorf("this measurement runs processes as %s does not", runtime.GOOS)
	}
	dir, err := os.MkdirTemp(c.Dir, "weft-catchup-*")
	if err != nil {
		return rep, fmt.Errorf("make the run's folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg := Default()
	cfg.Binary, cfg.Sites, cfg.Nodes, cfg.Batch, cfg.Size = c.Binary, 2, c.Nodes, 500, c.Size
	world, err := newWorld(cfg, dir)
	if err != nil {
		return rep, err
	}
	defer world.close()
	for _, n := range world.nodes() {
		n.roomy = true
	}
	if err := world.start(ctx); err != nil {
		return rep, err
	}
	out := &console{w: w, begin: time.Now()}
	rep = CatchUpReport{Events: c.Events, RTT: c.RTT.Seconds(), Cores: runtime.GOMAXPROCS(0)}
	world.links[0].line.slow(c.RTT/2, 0)
	for range c.Rounds {
		round, err := c.round(ctx, world, out)
		if err != nil {
			return rep, err
		}
		rep.Rounds = append(rep.Rounds, round)
	}
	return rep, nil
}

const (
	// levelWithin bounds one round.
	levelWithin = 10 * time.Minute
	// lookEvery is how exact times are; more often would take processor time from
	// the sites.
	lookEvery = 200 * time.Millisecond
)

func (c CatchUp) round(ctx context.Context, world *world, out *console) (round CatchUpRound, err error) {
	from, to, line := world.sites[0], world.sites[1], world.links[0].line
	before, err := to.status(ctx)
	if err != nil {
		return round, err
	}
	line.cut()
	if err := c.fill(ctx, from, world.cfg); err != nil {
		return round, err
	}
	out.printf("%d events accepted at %s while cut off", c.Events, from.name)
	if err := line.mend(ctx); err != nil {
		return round, err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, levelWithin)
	defer cancel()
	poll(ctx, lookEvery, func() bool {
		st, err := to.status(ctx)
		// Positions are in the stream, too: the number of events is what is counted.
		taken := st.taken(from.name) - before.taken(from.name)
		if err != nil || taken == 0 {
			return false
		}
		if round.First == 0 {
			round.First = time.Since(began).Seconds()
		}
		round.Level = time.Since(began).Seconds()
		return taken >= uint64(c.Events)
	})
	if ctx.Err() != nil {
		return round, fmt.Errorf("site %s is not level after %s: %w", to.name, levelWithin, ctx.Err())
	}
	round.Rate = float64(c.Events) / (round.Level - round.First)
	out.printf("level after %.2f s", round.Level)
	return round, nil
}

// fill publishes events at a site.
func (c CatchUp) fill(ctx context.Context, s *site, cfg Config) error {
	const publishers = 4
	var wg sync.WaitGroup
	errs := make([]error, publishers)
	for i := range publishers {
		p := newPublisher(s, i, cfg)
		p.prefix = fmt.Sprint(time.Now().UnixNano()) // other ids in each round
		wg.Go(func() {
			defer p.client.CloseIdleConnections()
			for want := uint64(c.Events*(i+1)/publishers - c.Events*i/publishers); p.sent < want && ctx.Err() == nil; {
				p.cfg.Batch = int(min(want-p.sent, uint64(cfg.Batch)))
				p.request(ctx)
			}
			for _, f := range p.failures() {
				errs[i] = fmt.Errorf("publish at %s: %s", s.name, f.Error)
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// taken is how many events the site has taken over from another since its start.
func (s status) taken(from string) uint64 {
	for _, l := range s.Links {
		if l.Site == from {
			return l.Taken
		}
	}
	return 0
}
