package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"weft.dev/weft/loadtest/idle"
)

// idle is a scenario that brings its own nodes.
func (c *cli) idle() *cobra.Command {
	cfg := idle.Default()
	cmd := &cobra.Command{
		Use:   "idle",
		Short: "Run sites of real nodes that have nothing to do, and report their memory",
		Long: `Start a site of each size on this machine, one after the other, wait, and report the
resident memory of each node: heap and stacks, and pages of the binary. With --load it
publishes to the first node then, waits and looks again. Linux only. It fails if a node
held more than --most.`,
		Example: `  weft load idle
  weft load idle --sizes 1 --load 10s --after 60s,3m --most 39000`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.IntSliceVar(&cfg.Sizes, "sizes", cfg.Sizes, "nodes of each site")
	f.DurationSliceVar(&cfg.After, "after", cfg.After, "when to look, after the start and after the load")
	f.DurationVar(&cfg.Load, "load", cfg.Load, "time of publishing; 0: none")
	f.Float64Var(&cfg.Rate, "rate", cfg.Rate, "events per second while publishing")
	f.IntVar(&cfg.Most, "most", cfg.Most, "kB that a node may hold; 0: no limit")
	f.StringVar(&cfg.Dir, "dir", cfg.Dir, "where the nodes' folders are made; empty: the system's temporary folder")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := cfg.Validate(); err != nil {
			return usage(cmd, err)
		}
		var err error
		if cfg.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find the weft executable: %w", err)
		}
		report, err := idle.Run(cmd.Context(), cfg, c.Stderr)
		if err != nil {
			return err
		}
		var failed error
		err = c.print(report, func(io.Writer) { failed = report.WriteText(c.Stdout) })
		if err := errors.Join(failed, err); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		return report.Failure()
	}
	return cmd
}
