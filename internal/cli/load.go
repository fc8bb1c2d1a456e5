package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft.dev/weft/loadtest"
)

func (c *cli) load() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "load",
		Short:   "Put load on a running node and count",
		Long:    "Put load on a running node: rates, latencies, and what was lost or came twice.",
		Example: "  weft load publish --duration 10s",
	}
	for _, s := range loadtest.Scenarios() {
		if sub := c.scenario(s); sub != nil {
			cmd.AddCommand(sub)
		}
	}
	return cmd
}

// scenario builds the command of one scenario.
func (c *cli) scenario(s loadtest.Scenario) *cobra.Command {
	cmd := &cobra.Command{Use: s.Name, Short: s.Summary, Example: s.Example, Args: cobra.NoArgs}
	switch s.Name {
	case "publish":
		cfg := loadtest.DefaultPublish()
		loadFlags(cmd.Flags(), &cfg.Load)
		f := cmd.Flags()
		f.StringVar(&cfg.Subject, "subject", cfg.Subject, "subject to publish on")
		f.StringVar(&cfg.Compare, "compare", cfg.Compare, "URL of a second node to measure in turns")
		f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "turns of a comparison")
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			cfg.Target = c.target()
			return c.measure(cmd, cfg.Validate(), func(ctx context.Context, progress io.Writer) (loadtest.Report, error) {
				return loadtest.Publish(ctx, cfg, progress)
			})
		}
	default:
		return nil
	}
	return cmd
}

func (c *cli) target() loadtest.Target { return loadtest.Target{Server: c.server, Token: c.token} }

func loadFlags(f *pflag.FlagSet, l *loadtest.Load) {
	f.DurationVar(&l.Duration, "duration", l.Duration, "measured time")
	f.DurationVar(&l.Warmup, "warmup", l.Warmup, "time before it")
	f.Float64Var(&l.Rate, "rate", l.Rate, "events per second; 0: as fast as answers come")
	f.IntVar(&l.Size, "size", l.Size, "bytes of each event's data")
	f.IntVar(&l.Connections, "connections", l.Connections, "publishing connections")
}

// measure runs a scenario with its progress on standard error.
func (c *cli) measure(cmd *cobra.Command, invalid error, run func(context.Context, io.Writer) (loadtest.Report, error)) error {
	if invalid != nil {
		return usage(cmd, invalid)
	}
	report, err := run(cmd.Context(), c.Stderr)
	if err != nil {
		return err
	}
	var failed error
	err = c.print(report, func(io.Writer) { failed = report.WriteText(c.Stdout) })
	if err := errors.Join(failed, err); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return report.Failed()
}
