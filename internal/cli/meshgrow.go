package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"weft.dev/weft/internal/app"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/mesh"
	"weft.dev/weft/mesh/growth"
)

func (c *cli) grow() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "grow -c FILE",
		Short: "Prepare the history of a site of one node for a site of three",
		Long: `Prepare the history of a site of one node for a site of three or more. Run it
where the node's data is, with the node stopped and its new configuration, which
has mesh.cluster and mesh.gossip. It takes all streams, consumers and buckets out
of the store, reads them back, and sets the old store aside. Then start all nodes
of the site: this one brings the history, the others wait for it. If the command
is interrupted, run it again.`,
		Example: "  weft mesh grow -c /etc/weft/weft.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.nodeConfig(file)
			if err != nil {
				return err
			}
			scope := obs.Discard()
			scope.Log = app.NewLogger(c.Stderr, cfg.Telemetry.Log)
			p := &progress{out: c.Stderr, tty: terminal(c.Stderr), start: time.Now()}
			g, err := mesh.Grow(cmd.Context(), cfg.Mesh, mesh.Deps{Scope: scope, Site: cfg.Site, Node: cfg.Node, Dir: cfg.Data, Version: Version}, p.report)
			p.end()
			if err != nil {
				return err
			}
			return c.print(g, func(w io.Writer) { printGrown(w, g, cfg.Mesh.Cluster.Size) })
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "the new configuration file of the node")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func printGrown(w io.Writer, g mesh.Grown, nodes int) {
	what := fmt.Sprintf("%d messages in %d streams, %s", g.Messages, g.Streams, size(g.Bytes))
	if g.Before {
		fmt.Fprintf(w, "The history of site %s has been prepared before: %s.\n", g.Site, what)
	} else {
		fmt.Fprintf(w, "The history of site %s is prepared: %s, taken in %.1f s.\n", g.Site, what, g.Seconds)
	}
	fmt.Fprintf(w, "Now start all %d nodes of the site. Node %s brings the history, the others wait for it.\n", nodes, g.Node)
	fmt.Fprintf(w, "The store as it was is kept in %s; remove it when you are content.\n", g.Kept)
}

// progress shows how far streams have been taken: in one line that changes on a
// terminal, else in a line now and then.
type progress struct {
	out   io.Writer
	tty   bool
	start time.Time
	last  time.Time
	open  bool // a line that changes stands there
}

// Between two lines on a terminal, and between two in a log.
const (
	drawEvery = 100 * time.Millisecond
	lineEvery = 2 * time.Second
)

func (p *progress) report(at growth.Progress) {
	every := lineEvery
	if p.tty {
		every = drawEvery
	}
	if !at.Done && time.Since(p.last) < every {
		return
	}
	p.last = time.Now()
	share := 1.0
	if at.Total > 0 {
		share = float64(at.All) / float64(at.Total)
	}
	left := ""
	spent := time.Since(p.start)
	if wait := (time.Duration(float64(spent)/max(share, 0.01)) - spent).Round(time.Second); share > 0.01 && wait > 0 {
		left = fmt.Sprintf(", %s left", wait)
	}
	line := fmt.Sprintf("%3.0f %%  stream %d of %d, %s: %s of %s%s", 100*share, at.Index, at.Of, at.Stream, size(at.Bytes), size(at.Size), left)
	if p.tty {
		fmt.Fprintf(p.out, "\r\033[K%s", line)
		p.open = true
		return
	}
	fmt.Fprintln(p.out, line)
}

// end leaves the line that changes as it is.
func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.out)
	}
}

// terminal tells whether someone sees what is written.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
