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
	cmd.AddCommand(c.chaos(), c.idle(), c.catchUp())
	return cmd
}

// scenario builds the command of one scenario.
func (c *cli) scenario(s loadtest.Scenario) *cobra.Command {
	cmd := &cobra.Command{Use: s.Name, Short: s.Summary, Example: "  " + s.Example, Args: cobra.NoArgs}
	build, ok := map[string]func(*pflag.FlagSet) scenario{
		"publish": publishScenario, "fanout": fanoutScenario, "webhook": webhookScenario, "bridge": bridgeScenario, "nats": natsScenario,
	}[s.Name]
	if !ok {
		return nil
	}
	sc := build(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sc.load.Target = loadtest.Target{Server: c.server, Token: c.token}
		return c.measure(cmd, sc)
	}
	return cmd
}

// scenario is one scenario with its settings bound to flags.
type scenario struct {
	load     *loadtest.Load
	validate func() error
	run      func(context.Context, io.Writer) (loadtest.Report, error)
}

func publishScenario(f *pflag.FlagSet) scenario {
	cfg := loadtest.DefaultPublish()
	loadFlags(f, &cfg.Load)
	f.StringVar(&cfg.Subject, "subject", cfg.Subject, "subject to publish on")
	f.StringVar(&cfg.Compare, "compare", cfg.Compare, "URL of a second node to measure in turns")
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "turns of a comparison")
	return scenario{&cfg.Load, func() error { return cfg.Validate() }, func(ctx context.Context, w io.Writer) (loadtest.Report, error) {
		return loadtest.Publish(ctx, cfg, w)
	}}
}

func natsScenario(f *pflag.FlagSet) scenario {
	cfg := loadtest.DefaultNATS()
	loadFlags(f, &cfg.Load)
	f.StringVar(&cfg.URL, "nats", cfg.URL, "NATS address of the node")
	f.StringVar(&cfg.Compare, "compare", cfg.Compare, "NATS address of the server to measure in turns")
	f.IntVar(&cfg.Outstanding, "outstanding", cfg.Outstanding, "publishes that wait for their acknowledgement, on each connection")
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "turns")
	return scenario{&cfg.Load, func() error { return cfg.Validate() }, func(ctx context.Context, w io.Writer) (loadtest.Report, error) {
		return loadtest.NATS(ctx, cfg, w)
	}}
}

func fanoutScenario(f *pflag.FlagSet) scenario {
	cfg := loadtest.DefaultFanout()
	deliveryFlags(f, &cfg.Load)
	f.IntVar(&cfg.Sockets, "sockets", cfg.Sockets, "WebSockets that listen")
	f.IntVar(&cfg.Subjects, "subjects", cfg.Subjects, "subjects they share")
	f.BoolVar(&cfg.Batch, "batch", cfg.Batch, "take several events in one frame")
	return scenario{&cfg.Load, func() error { return cfg.Validate() }, func(ctx context.Context, w io.Writer) (loadtest.Report, error) {
		return loadtest.Fanout(ctx, cfg, w)
	}}
}

func webhookScenario(f *pflag.FlagSet) scenario {
	cfg := loadtest.DefaultWebhook()
	deliveryFlags(f, &cfg.Load)
	f.IntVar(&cfg.Endpoints, "endpoints", cfg.Endpoints, "endpoints to create; they are deleted at the end")
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "address of the receiver")
	f.BoolVar(&cfg.Verify, "verify", cfg.Verify, "check every signature")
	return scenario{&cfg.Load, func() error { return cfg.Validate() }, func(ctx context.Context, w io.Writer) (loadtest.Report, error) {
		return loadtest.Webhook(ctx, cfg, w)
	}}
}

func bridgeScenario(f *pflag.FlagSet) scenario {
	cfg := loadtest.DefaultBridge()
	deliveryFlags(f, &cfg.Load)
	f.StringSliceVar(&cfg.Brokers, "brokers", cfg.Brokers, "Kafka brokers")
	f.StringVar(&cfg.Topic, "topic", cfg.Topic, "topic the bridge writes")
	f.StringVar(&cfg.Subject, "subject", cfg.Subject, "subject the bridge carries")
	f.IntVar(&cfg.Keys, "keys", cfg.Keys, "partition keys; order is checked per key")
	return scenario{&cfg.Load, func() error { return cfg.Validate() }, func(ctx context.Context, w io.Writer) (loadtest.Report, error) {
		return loadtest.Bridge(ctx, cfg, w)
	}}
}

func loadFlags(f *pflag.FlagSet, l *loadtest.Load) {
	f.DurationVar(&l.Duration, "duration", l.Duration, "measured time")
	f.DurationVar(&l.Warmup, "warmup", l.Warmup, "time before it")
	f.Float64Var(&l.Rate, "rate", l.Rate, "events per second; 0: as fast as answers come")
	f.IntVar(&l.Size, "size", l.Size, "bytes of each event's data")
	f.IntVar(&l.Connections, "connections", l.Connections, "publishing connections")
}

func deliveryFlags(f *pflag.FlagSet, l *loadtest.Load) {
	loadFlags(f, l)
	f.DurationVar(&l.Grace, "grace", l.Grace, "time for the last deliveries")
}

// measure runs a scenario with its progress on standard error.
func (c *cli) measure(cmd *cobra.Command, sc scenario) error {
	if err := sc.validate(); err != nil {
		return usage(cmd, err)
	}
	report, err := sc.run(cmd.Context(), c.Stderr)
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
