package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"weft.dev/weft/internal/app"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/demo"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/sidecar"
)

func (c *cli) run() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a node",
		Long: `Run a node: mesh, gateway, bridges and console. Without a file it is a single node of
site "local" on loopback with its data in ./weft-data.`,
		Example: "  weft run\n  weft run -c weft.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.nodeConfig(file)
			if err != nil {
				return err
			}
			_, set := c.Lookup("GOGC")
			m := &memory{tune: !set}
			m.act(step{percent: nodeGC})
			n, err := app.New(cfg, app.Deps{Log: app.NewLogger(c.Stderr, cfg.Telemetry.Log), Version: Version})
			if err != nil {
				return err
			}
			return run.Stack(cmd.Context(), n, run.Named("memory", m))
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	return cmd
}

func (c *cli) nodeConfig(file string) (app.Config, error) {
	cfg := app.DefaultConfig()
	if file == "" {
		return cfg, nil
	}
	err := conf.LoadFile(file, &cfg, c.Lookup)
	return cfg, err
}

func (c *cli) check() *cobra.Command {
	var file, kind string
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Check a configuration file",
		Long:  "Check a configuration file and list every mistake with its line. Nothing is started.",
		Example: `  weft check -c weft.yaml
  weft check -c sidecar.yaml --kind sidecar`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		switch kind {
		case "node":
			_, err = c.nodeConfig(file)
		case "sidecar":
			_, err = c.sidecarConfig(file)
		default:
			return usage(cmd, fmt.Errorf("--kind %q: want node or sidecar", kind))
		}
		return c.checked(file, err)
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&kind, "kind", "node", "what the file configures: node or sidecar")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// checked reports the outcome of weft check.
func (c *cli) checked(file string, err error) error {
	type mistake struct {
		Line    int    `json:"line,omitempty"`
		Path    string `json:"path,omitempty"`
		Message string `json:"message"`
	}
	mistakes := []mistake{}
	if found, ok := errors.AsType[*conf.Error](err); ok {
		for _, m := range found.Mistakes {
			mistakes = append(mistakes, mistake{m.Line, m.Path, m.Message})
		}
	} else if err != nil {
		return err
	}
	out := c.print(map[string]any{"file": file, "ok": err == nil, "mistakes": mistakes}, func(w io.Writer) {
		if err == nil {
			fmt.Fprintf(w, "%s: ok\n", file)
		}
	})
	if out != nil {
		return out
	}
	if err != nil && c.json() {
		return fmt.Errorf("%s: %d mistakes", file, len(mistakes))
	}
	return err
}

func (c *cli) sidecar() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "sidecar",
		Short:   "Run a sidecar beside a service",
		Long:    "Run a sidecar: the service publishes to it and gets its subscriptions from it.",
		Example: "  weft sidecar -c sidecar.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.sidecarConfig(file)
			if err != nil {
				return err
			}
			return sidecar.Main(cmd.Context(), cfg, c.Stderr)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	return cmd
}

func (c *cli) sidecarConfig(file string) (sidecar.Config, error) {
	cfg := sidecar.DefaultConfig()
	if file == "" {
		return cfg, nil
	}
	err := conf.LoadFile(file, &cfg, c.Lookup)
	return cfg, err
}

func (c *cli) demo() *cobra.Command {
	var cfg demo.Config
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch events flow through every part of Weft",
		Long: `Start two linked sites, a small order shop behind sidecars, an embedded Kafka and
SNS/SQS, a partner who verifies webhooks and a browser page, all in this process.
With --for it ends by itself with an account of every accepted event at every sink,
and fails if one was lost or seen twice.`,
		Example: "  weft demo\n  weft demo --for 30s -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.Validate(); err != nil {
				return usage(cmd, err)
			}
			cfg.Out = c.Stdout
			cfg.JSON = c.json()
			cfg.Log = c.Stderr
			return demo.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&cfg.For, "for", 0, "end after this long with a summary (0: run until stopped)")
	f.Float64Var(&cfg.Rate, "rate", 10, "orders per second")
	f.BoolVar(&cfg.AnyPort, "any-port", false, "take free ports instead of the usual ones")
	f.StringVar(&cfg.OTLP, "otlp", "", "OTLP/HTTP receiver to export all spans to, such as http://127.0.0.1:4318")
	f.BoolVar(&cfg.Verbose, "verbose", false, "show the log of every part")
	return cmd
}
