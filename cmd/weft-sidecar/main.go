// Command weft-sidecar is the sidecar alone: the same as `weft sidecar`, in a
// binary without the mesh node, the gateway and the bridges.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/sidecar"
)

const usage = `Run a sidecar beside a service: the service publishes to it and gets its
subscriptions from it.

Usage:
  weft-sidecar [-c FILE]

Example:
  weft-sidecar -c sidecar.yaml
  curl -d '{"total": 12}' -H 'Content-Type: application/json' \
    http://127.0.0.1:4280/v1/events/orders.created

Without a file it is app "app" at the mesh node nats://127.0.0.1:4222.

Flags:
  -c FILE   configuration (see docs/config.md)
  -h        this help
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	var misuse usageError
	switch {
	case errors.As(err, &misuse):
		fmt.Fprintf(os.Stderr, "weft-sidecar: %s\n\n%s", err, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "weft-sidecar:", err)
		os.Exit(1)
	}
}

type usageError struct{ error }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("weft-sidecar", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	file := flags.String("c", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, usage)
		return err
	case err != nil:
		return usageError{err}
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	}
	cfg := sidecar.DefaultConfig()
	if *file != "" {
		if err := conf.LoadFile(*file, &cfg, os.LookupEnv); err != nil {
			return err
		}
	}
	return sidecar.Main(ctx, cfg, stderr)
}
