package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version is set by the linker in releases.
var Version = "0.1.0-dev"

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  weft version -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if bi, ok := debug.ReadBuildInfo(); ok {
				for _, dep := range bi.Deps {
					if dep.Path == "github.com/nats-io/nats-server/v2" {
						v["natsServer"] = dep.Version
					}
				}
			}
			return c.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "weft %s (nats-server %s, %s, %s)\n", v["version"], v["natsServer"], v["go"], v["platform"])
			})
		},
	}
}
