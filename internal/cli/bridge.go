package cli

import (
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"

	"weft.dev/weft/bridge"
)

func (c *cli) bridge() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "bridge",
		Short:   "Look at bridges and steer them",
		Example: "  weft bridge ls\n  weft bridge check\n  weft bridge pause orders-to-kafka",
	}
	cmd.AddCommand(c.bridgeList(), c.bridgeCheck(), c.bridgeSteer("pause"), c.bridgeSteer("resume"))
	return cmd
}

func (c *cli) bridgeList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "List bridges, their state and their lag",
		Example: "  weft bridge ls -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			full, list, err := fetch[struct{ Bridges []bridge.Status }](cmd.Context(), c, get("/api/bridges"))
			if err != nil {
				return err
			}
			return c.print(full, func(w io.Writer) {
				fmt.Fprintln(w, "BRIDGE\tSTATE\tFROM\tTO\tSTORED\tDEAD\tDROPPED\tLAG\tREASON")
				for _, b := range list.Bridges {
					lag := "unknown"
					if b.LagMessages >= 0 {
						lag = fmt.Sprintf("%d (%.1f s)", b.LagMessages, b.LagSeconds)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", b.Name, b.State, b.From, b.To, b.Stored, b.Dead, b.Dropped, lag, b.Reason)
				}
			})
		},
	}
}

func (c *cli) bridgeCheck() *cobra.Command {
	return &cobra.Command{
		Use:     "check",
		Short:   "Connect to both ends of every bridge and say what is missing",
		Example: "  weft bridge check",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			full, list, err := fetch[struct{ Bridges []bridge.Checked }](cmd.Context(), c, get("/api/bridges/check"))
			if err != nil {
				return err
			}
			bad := 0
			err = c.print(full, func(w io.Writer) {
				fmt.Fprintln(w, "BRIDGE\tEND\tRESULT\tWHAT")
				for _, b := range list.Bridges {
					fmt.Fprintf(w, "%s\tfrom\t%s\t%s\n", b.Name, orOK(b.FromError), b.From)
					fmt.Fprintf(w, "%s\tto\t%s\t%s\n", b.Name, orOK(b.ToError), b.To)
				}
			})
			for _, b := range list.Bridges {
				if b.FromError != "" || b.ToError != "" {
					bad++
				}
			}
			if err == nil && bad > 0 {
				err = fmt.Errorf("%d of %d bridges cannot work", bad, len(list.Bridges))
			}
			return err
		},
	}
}

func orOK(problem string) string {
	if problem == "" {
		return "ok"
	}
	return problem
}

func (c *cli) bridgeSteer(verb string) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " NAME",
		Short:   map[string]string{"pause": "Stop a bridge after what it holds", "resume": "Let a paused bridge go on"}[verb],
		Example: "  weft bridge " + verb + " orders-to-kafka",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.call(cmd.Context(), post("/api/bridges/"+url.PathEscape(args[0])+"/"+verb, nil), nil); err != nil {
				return err
			}
			return c.print(map[string]string{"bridge": args[0], "done": verb}, func(w io.Writer) { fmt.Fprintln(w, verb+"d", args[0]) })
		},
	}
}
