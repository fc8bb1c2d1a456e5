package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"weft.dev/weft/mesh"
)

func (c *cli) mesh() *cobra.Command {
	return &cobra.Command{
		Use:     "mesh",
		Short:   "Show the site, its node and its links",
		Example: "  weft mesh\n  weft mesh -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var st mesh.Status
			if err := c.call(cmd.Context(), get("/api/mesh"), &st); err != nil {
				return err
			}
			return c.print(st, func(w io.Writer) { printMesh(w, st) })
		},
	}
}

func printMesh(w io.Writer, st mesh.Status) {
	fmt.Fprintf(w, "site\t%s\nnode\t%s (weft %s, nats-server %s)\n", st.Site, st.Node, st.Version, st.Nats)
	fmt.Fprintf(w, "stream\t%s: %d events, %s, sequence %d to %d\n", st.Stream.Name, st.Stream.Messages, size(st.Stream.Bytes), st.Stream.First, st.Stream.Last)
	if len(st.Links) == 0 {
		fmt.Fprintln(w, "links\tnone")
		return
	}
	fmt.Fprintln(w, "\nLINK\tSTATE\tRTT\tTO SEND\tTO TAKE\tEXPORT\tIMPORT")
	for _, l := range st.Links {
		state := "down"
		if l.Up {
			state = "up"
		}
		if l.Problem != "" {
			state += " (" + l.Problem + ")"
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f ms\t%d\t%d\t%s\t%s\n", l.Site, state, l.RTTMs, l.LagOut, l.LagIn,
			strings.Join(l.Exports, " "), strings.Join(l.Imports, " "))
	}
}

func (c *cli) stream() *cobra.Command {
	return &cobra.Command{
		Use:     "stream",
		Short:   "Show the streams of the site",
		Example: "  weft stream -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var streams []mesh.StreamStatus
			if err := c.call(cmd.Context(), get("/api/streams"), &streams); err != nil {
				return err
			}
			return c.print(streams, func(w io.Writer) {
				fmt.Fprintln(w, "STREAM\tMESSAGES\tBYTES\tFIRST\tLAST\tCONSUMERS")
				for _, s := range streams {
					fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%d\n", s.Name, s.Messages, size(s.Bytes), s.First, s.Last, s.Consumers)
				}
			})
		},
	}
}

// size is a number of bytes for people.
func size(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n)/unit, "KMGTPE"
	i := 0
	for v >= unit && i < len(units)-1 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
