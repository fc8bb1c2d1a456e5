package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"weft.dev/weft/loadtest/chaos"
)

// chaos is a scenario that brings its own nodes.
func (c *cli) chaos() *cobra.Command {
	cfg, file := chaos.Default(), ""
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Run sites of real nodes, kill and cut them, and count what was lost",
		Long: `Start sites of real nodes on this machine, publish and consume at all of them, kill
nodes and whole sites, cut, hold and slow links by a schedule that --seed decides, and
hold what every site stores against what was acknowledged. Everything it started is
gone when it ends. It fails if an event was lost, stored twice or out of order, or if
a publish failed at a site that had nodes.`,
		Example: `  weft load chaos
  weft load chaos --sites 3 --nodes 3 --edges 2 --rate 2000 --batch 5 --duration 30m --faults 70 --seed 7
  weft load chaos --only rolling-restart --sites 1 --rate 1000 --duration 1m --faults 1`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Sites, "sites", cfg.Sites, "core sites, each linked to each")
	f.IntVar(&cfg.Nodes, "nodes", cfg.Nodes, "nodes of each core site")
	f.IntVar(&cfg.Edges, "edges", cfg.Edges, "edge sites of one node that dial core sites")
	f.IntVar(&cfg.Homes, "homes", cfg.Homes, "core sites that each edge dials")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "time of publishing; start and verdict come on top")
	f.Float64Var(&cfg.Rate, "rate", cfg.Rate, "events per second of all sites together")
	f.IntVar(&cfg.Publishers, "publishers", cfg.Publishers, "publishers at each site")
	f.IntVar(&cfg.Batch, "batch", cfg.Batch, "events in a request")
	f.IntVar(&cfg.Size, "size", cfg.Size, "bytes of each event's data")
	f.IntVar(&cfg.Faults, "faults", cfg.Faults, "faults in the duration")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "decides the schedule of faults")
	f.StringVar((*string)(&cfg.Only), "only", "", "one kind of fault: "+chaos.Kinds())
	f.DurationVar(&cfg.Timeout, "timeout", cfg.Timeout, "of a publish with all its attempts")
	f.DurationVar(&cfg.Level, "level", cfg.Level, "most time for the sites to be level at the end")
	f.StringVar(&cfg.Dir, "dir", cfg.Dir, "where the nodes' folders are made; empty: the system's temporary folder")
	f.BoolVar(&cfg.Keep, "keep", cfg.Keep, "leave the nodes' configurations, data and logs")
	f.StringVar(&file, "report", file, "also write the report as Markdown to this file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := cfg.Validate(); err != nil {
			return usage(cmd, err)
		}
		var err error
		if cfg.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find the weft executable: %w", err)
		}
		report, err := chaos.Run(cmd.Context(), cfg, c.Stderr)
		if err != nil {
			return err
		}
		var failed error
		err = c.print(report, func(io.Writer) { failed = report.WriteText(c.Stdout) })
		if err := errors.Join(failed, err, writeReport(report, file)); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		return report.Failure()
	}
	return cmd
}

// catchUp measures how fast a site takes over what it missed.
func (c *cli) catchUp() *cobra.Command {
	cfg := chaos.DefaultCatchUp()
	cmd := &cobra.Command{
		Use:   "catchup",
		Short: "Measure how fast a site takes over what it missed while a link was cut",
		Long: `Start two sites of real nodes on this machine, cut their link, publish at one, heal the
link and measure how fast the other takes the events over. Both sites share this
machine's cores. Everything it started is gone when it ends.`,
		Example: `  weft load catchup
  weft load catchup --events 1000000 --rtt 250ms --rounds 1`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Nodes, "nodes", cfg.Nodes, "nodes of each site")
	f.IntVar(&cfg.Events, "events", cfg.Events, "events accepted while the link is cut")
	f.IntVar(&cfg.Size, "size", cfg.Size, "bytes of each event's data")
	f.DurationVar(&cfg.RTT, "rtt", cfg.RTT, "round trip of the link")
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "how often")
	f.StringVar(&cfg.Dir, "dir", cfg.Dir, "where the nodes' folders are made; empty: the system's temporary folder")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := cfg.Validate(); err != nil {
			return usage(cmd, err)
		}
		var err error
		if cfg.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find the weft executable: %w", err)
		}
		report, err := cfg.Run(cmd.Context(), c.Stderr)
		if err != nil {
			return err
		}
		return c.print(report, func(w io.Writer) { err = errors.Join(err, report.WriteText(w)) })
	}
	return cmd
}

func writeReport(r chaos.Report, file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(r.WriteMarkdown(f), f.Close())
}
