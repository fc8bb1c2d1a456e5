package cli

import (
	"io"
	"net/url"

	"github.com/spf13/cobra"

	"weft.dev/weft/trace"
)

func (c *cli) trace() *cobra.Command {
	return &cobra.Command{
		Use:   "trace ID",
		Short: "Show the journey of an event",
		Long: `Show everything that happened to an event, as a tree with times: where it was
published and stored, which links and bridges it crossed, who processed it, which
events it caused, and who received them. ID is a trace id, a correlation id or an
event id. All sites are asked; a site that does not answer is named.`,
		Example: "  weft trace 4bf92f3577b34da6a3ce929d0e0e4736\n  weft trace o-1 -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var j trace.Journey
			if err := c.call(cmd.Context(), get("/api/journeys/"+url.PathEscape(args[0])), &j); err != nil {
				return err
			}
			var failed error
			err := c.print(j, func(io.Writer) { failed = trace.Text(c.Stdout, &j) })
			if failed != nil {
				return failed
			}
			return err
		},
	}
}
