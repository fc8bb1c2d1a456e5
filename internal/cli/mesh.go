package cli

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft.dev/weft/mesh"
)

func (c *cli) mesh() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "mesh",
		Short:   "Show the site, its nodes, links and streams",
		Example: "  weft mesh\n  weft mesh -o json\n  weft mesh doctor",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var st mesh.Status
			if err := c.call(cmd.Context(), get("/api/mesh"), &st); err != nil {
				return err
			}
			return c.print(st, func(w io.Writer) { printMesh(w, st) })
		},
	}
	cmd.AddCommand(c.doctor(), c.removeNode(), c.sites(), c.forget(), c.grow())
	return cmd
}

func (c *cli) removeNode() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node that is gone for good out of its site",
		Long: `Take a node that is gone for good out of its site: what it kept is copied to
another node, and it no longer counts in votes. A running node is refused: stop
it first. Remove its data directory before another node takes its name.`,
		Example: "  weft mesh remove fra-3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.call(cmd.Context(), remove("/api/mesh/nodes/"+url.PathEscape(args[0])), nil); err != nil {
				return err
			}
			return c.print(map[string]string{"removed": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "removed %s\n", args[0]) })
		},
	}
}

// errFindings ends the command with status 1.
var errFindings = errors.New("the mesh needs attention")

func (c *cli) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Explain what is wrong with the mesh and what to do",
		Long: `Explain what is wrong with the mesh and what to do, as the node sees it that is asked.
Ends with status 1 if a finding is an error; docs/mesh.md explains each code.`,
		Example: "  weft mesh doctor\n  weft mesh doctor -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var d mesh.Diagnosis
			if err := c.call(cmd.Context(), get("/api/mesh/doctor"), &d); err != nil {
				return err
			}
			if err := c.print(d, func(w io.Writer) { printDiagnosis(w, d) }); err != nil {
				return err
			}
			errs := 0
			for _, f := range d.Findings {
				if f.Severity == mesh.SeverityError {
					errs++
				}
			}
			if errs > 0 {
				return fmt.Errorf("%w: %d of %d findings are errors", errFindings, errs, len(d.Findings))
			}
			return nil
		},
	}
}

func printDiagnosis(w io.Writer, d mesh.Diagnosis) {
	if len(d.Findings) == 0 {
		fmt.Fprintf(w, "Nothing is wrong with site %s, as node %s sees it.\n", d.Site, d.Node)
		return
	}
	for i, f := range d.Findings {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s %s (%s)\n  %s\n  why: %s\n  do:  %s\n", strings.ToUpper(f.Severity), f.Code, f.Subject, f.What, f.Why, f.Do)
	}
}

func printMesh(w io.Writer, st mesh.Status) {
	fmt.Fprintf(w, "site    %s\nnode    %s (weft %s, nats-server %s)\n", st.Site, st.Node, st.Version, st.Nats)
	fmt.Fprintf(w, "stream  %s: %d messages, %s, sequence %d to %d\n", st.Stream.Name, st.Stream.Messages, size(st.Stream.Bytes), st.Stream.First, st.Stream.Last)
	if st.Problem != "" {
		fmt.Fprintf(w, "problem %s\n", st.Problem)
	}
	printNodes(w, st)
	printLinks(w, st)
	printReplicas(w, st)
}

func printNodes(w io.Writer, st mesh.Status) {
	fmt.Fprintln(w, "\nNODE\tSTATE\tROLE\tVERSION\tDISK FREE\tCLIENTS\tLINKS")
	for _, n := range st.Nodes {
		role, disk := "", "–"
		if n.Leader {
			role = "leader"
		}
		if n.Disk != nil {
			disk = fmt.Sprintf("%s of %s", size(n.Disk.Free), size(n.Disk.Total))
			if n.Disk.Full {
				disk += " FULL"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Node, state(n.Up, n.Problem), dash(role), dash(n.Version), disk, dash(n.Listen.Client), dash(n.Listen.Links))
	}
}

func printLinks(w io.Writer, st mesh.Status) {
	if len(st.Links) == 0 {
		fmt.Fprintln(w, "\nNo links: this site is linked to no other.")
		return
	}
	fmt.Fprintln(w, "\nLINK\tSTATE\tFOR\tRTT\tTO SEND\tROOM\tLOST\tTO TAKE\tBEHIND\tEXPORT\tIMPORT\tEPOCH\tINCIDENTS")
	for _, l := range st.Links {
		var incidents []string
		for _, i := range l.Incidents {
			incidents = append(incidents, fmt.Sprintf("%s %d", i.Kind, i.Count))
		}
		rtt, behind, room := "–", "–", "–"
		if l.Headroom != nil { // share of the retention left for what is to be sent
			room = fmt.Sprintf("%.0f%%", *l.Headroom*100)
		}
		if l.Up {
			rtt = fmt.Sprintf("%.1f ms", l.RTTMs)
			behind = fmt.Sprintf("%.1f s", l.LagInSeconds)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", l.Site, state(l.Up, ""), st.At.Sub(l.Since).Round(time.Second),
			rtt, l.LagOut, room, l.Lost, l.LagIn, behind, dash(strings.Join(l.Exports, " ")), dash(strings.Join(l.Imports, " ")),
			dash(l.Epoch), dash(strings.Join(incidents, ", ")))
	}
	for _, l := range st.Links {
		if l.Problem != "" {
			fmt.Fprintf(w, "link to %s: %s\n", l.Site, l.Problem)
		}
	}
}

func printReplicas(w io.Writer, st mesh.Status) {
	if len(st.Streams) == 0 {
		return
	}
	fmt.Fprintln(w, "\nSTREAM\tMESSAGES\tSIZE\tLEADER\tREPLICAS")
	for _, s := range st.Streams {
		var replicas []string
		for _, r := range s.Replicas {
			switch {
			case !r.Up:
				replicas = append(replicas, r.Node+" (down)")
			case !r.Current:
				replicas = append(replicas, fmt.Sprintf("%s (%d behind)", r.Node, r.Lag))
			default:
				replicas = append(replicas, r.Node)
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", s.Name, s.Messages, size(s.Bytes), dash(s.Leader), strings.Join(replicas, ", "))
	}
}

func state(up bool, problem string) string {
	word := "down"
	if up {
		word = "up"
	}
	if problem != "" {
		word += " (" + problem + ")"
	}
	return word
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
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
