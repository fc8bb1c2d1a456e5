package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"weft.dev/weft/mesh"
)

func (c *cli) sites() *cobra.Command {
	return &cobra.Command{
		Use:     "sites",
		Short:   "Show the directory of the sites of the mesh",
		Example: "  weft mesh sites\n  weft mesh sites -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var st mesh.DirectoryStatus
			if err := c.call(cmd.Context(), get("/api/mesh/sites"), &st); err != nil {
				return err
			}
			return c.print(st, func(w io.Writer) { printSites(w, st) })
		},
	}
}

func printSites(w io.Writer, st mesh.DirectoryStatus) {
	if !st.On {
		fmt.Fprintln(w, "This site has no directory: mesh.links.directory is not set.")
		return
	}
	fmt.Fprintln(w, "SITE\tROLE\tLINK\tADDRESSES\tHOMES\tEXPORT\tKEY\tISSUED")
	for _, s := range st.Sites {
		link := "none"
		switch {
		case s.Self:
			link = "this site"
		case s.Linked:
			link = state(s.Up, "")
		}
		if s.ByHand {
			link += " (by hand)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Site, s.Role, link, dash(strings.Join(s.URLs, " ")), dash(strings.Join(s.Homes, " ")),
			dash(strings.Join(s.Export, " ")), s.PublicKey, s.Issued.UTC().Format("2006-01-02 15:04:05Z"))
	}
	for _, j := range st.Joins {
		switch {
		case j.Problem != "":
			fmt.Fprintf(w, "join %s: %s\n", j.URL, j.Problem)
		case j.Site == "":
			fmt.Fprintf(w, "join %s: not used yet\n", j.URL)
		}
	}
	for _, f := range st.Forgotten {
		fmt.Fprintf(w, "forgotten: site %s with key %s, at site %s on %s\n", f.Site, f.PublicKey, f.By, f.At.UTC().Format("2006-01-02 15:04Z"))
	}
}

func (c *cli) forget() *cobra.Command {
	return &cobra.Command{
		Use:   "forget SITE",
		Short: "Take a site out of the mesh for good",
		Long: `Take a site out of the directory at all sites of the mesh: its links end, and its
key is not let in again. Its name is free for another site. One that still has
the secret of the mesh can join with another key: change mesh.links.directory.secret
if it must not.`,
		Example: "  weft mesh forget iad",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.call(cmd.Context(), remove("/api/mesh/sites/"+url.PathEscape(args[0])), nil); err != nil {
				return err
			}
			return c.print(map[string]string{"forgotten": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "forgotten %s\n", args[0]) })
		},
	}
}
