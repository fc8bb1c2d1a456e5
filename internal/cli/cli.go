// Package cli is the weft command: what stands on the command line becomes
// calls of the app or of a running node's HTTP API. It makes no compatibility
// promise.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// Env is what the command may touch of the world.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Lookup         func(name string) (string, bool)
}

// ErrUsage marks an error of the command line itself (exit 2).
var ErrUsage = errors.New("usage")

// Run executes one command line. The error is ErrUsage for a wrong command line.
func Run(ctx context.Context, args []string, env Env) error {
	root := newRoot(&cli{Env: env})
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	return root.ExecuteContext(ctx)
}

// ExitCode maps an error to the exit code: 0 ok, 1 failure, 2 usage.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrUsage):
		return 2
	}
	return 1
}

// cli is the state every command shares.
type cli struct {
	Env
	server string
	token  string
	output string // text or json
}

func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "weft",
		Short: "Event mesh gateway and observability sidecar",
		Long: `Weft is one binary: an event mesh that needs no broker and no database, a gateway
to browsers and partners, bridges to Kafka and SNS/SQS, and a sidecar beside services.

Start with "weft demo", then "weft run".`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	f := root.PersistentFlags()
	f.StringVar(&c.server, "server", c.env("WEFT_SERVER", "http://127.0.0.1:8281"), "URL of a node (env WEFT_SERVER)")
	f.StringVar(&c.token, "token", c.env("WEFT_TOKEN", ""), "bearer token (env WEFT_TOKEN)")
	f.StringVarP(&c.output, "output", "o", "text", "output format: text or json")
	_ = root.PersistentFlags().SetAnnotation("token", "secret", []string{"true"})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if c.output != "text" && c.output != "json" {
			return usage(cmd, fmt.Errorf("--output %q: want text or json", c.output))
		}
		return nil
	}
	root.AddCommand(
		c.demo(), c.run(), c.sidecar(), c.check(), c.pub(), c.sub(), c.trace(), c.mesh(), c.stream(),
		c.dlq(), c.webhook(), c.bridge(), c.pki(), c.load(), c.version(),
	)
	strict(root)
	return root
}

// strict makes every mistake in arguments a usage error, also an unknown
// subcommand.
func strict(cmd *cobra.Command) {
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, a []string) error { return usage(cmd, args(cmd, a)) }
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = func(cmd *cobra.Command, a []string) error {
			if len(a) == 0 {
				return nil
			}
			return usage(cmd, fmt.Errorf("unknown command %q", a[0]))
		}
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		return usage(cmd, errors.Join(cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()))
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}

// usage marks err as a mistake on the command line; nil stays nil.
func usage(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w (%w; see %q)", err, ErrUsage, cmd.CommandPath()+" --help")
}

func (c *cli) env(name, fallback string) string {
	if v, ok := c.Lookup(name); ok && v != "" {
		return v
	}
	return fallback
}

func (c *cli) json() bool { return c.output == "json" }

// print writes v as indented JSON with -o json, else what text writes into a
// table with aligned columns.
func (c *cli) print(v any, text func(w io.Writer)) error {
	if c.json() {
		return c.printJSON(v)
	}
	w := tabwriter.NewWriter(c.Stdout, 0, 8, 2, ' ', 0)
	text(w)
	return w.Flush()
}

func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// input is the content of the named file, or of standard input for "-".
func (c *cli) input(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(c.Stdin)
	}
	return os.ReadFile(name)
}
