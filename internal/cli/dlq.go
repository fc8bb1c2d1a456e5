package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"weft.dev/weft/internal/dlq"
)

func (c *cli) dlq() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dlq",
		Short:   "Look at dead letters and replay them",
		Long:    "Dead letters are events that a bridge or a subscription gave up on, with the reason.",
		Example: "  weft dlq ls\n  weft dlq show 12\n  weft dlq replay 12 --dry-run",
	}
	cmd.AddCommand(c.dlqList(), c.dlqShow(), c.dlqReplay())
	return cmd
}

func (c *cli) dlqList() *cobra.Command {
	var owner string
	var after uint64
	var most int
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List dead letters, oldest first",
		Example: "  weft dlq ls --owner billing.invoices --max 20",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"max": {strconv.Itoa(most)}, "after": {strconv.FormatUint(after, 10)}}
			if owner != "" {
				q.Set("owner", owner)
			}
			var list struct {
				Entries []dlq.Entry `json:"entries"`
				Next    uint64      `json:"next,omitempty"`
			}
			if err := c.call(cmd.Context(), get("/api/dlq?"+q.Encode()), &list); err != nil {
				return err
			}
			return c.print(list, func(w io.Writer) {
				fmt.Fprintln(w, "SEQ\tAT\tOWNER\tREASON\tATTEMPTS\tSUBJECT\tID\tERROR")
				for _, e := range list.Entries {
					fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", e.Seq, e.At.Format(time.RFC3339), e.Owner, e.Reason, e.Attempts, e.Subject, e.ID, e.Error)
				}
				if list.Next > 0 {
					fmt.Fprintf(w, "more: --after %d\n", list.Next)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&owner, "owner", "", "only of this bridge, or app.subscription")
	f.Uint64Var(&after, "after", 0, "only behind this number")
	f.IntVar(&most, "max", 100, "at most so many")
	return cmd
}

func (c *cli) dlqShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show SEQ",
		Short:   "Show one dead letter with its event",
		Example: "  weft dlq show 12",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := number(cmd, args[0])
			if err != nil {
				return err
			}
			var letter json.RawMessage
			if err := c.call(cmd.Context(), get("/api/dlq/"+seq), &letter); err != nil {
				return err
			}
			return c.printJSON(letter)
		},
	}
}

func (c *cli) dlqReplay() *cobra.Command {
	var r dlq.Replay
	cmd := &cobra.Command{
		Use:     "replay [SEQ...]",
		Short:   "Publish dead letters again on their subject",
		Long:    "Publish dead letters again. Every subscriber of the subject sees them; they keep their id and source.",
		Example: "  weft dlq replay 12 13\n  weft dlq replay --owner shop-to-kafka --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, a := range args {
				seq, err := strconv.ParseUint(a, 10, 64)
				if err != nil {
					return usage(cmd, fmt.Errorf("%q: want the number of a dead letter", a))
				}
				r.Seqs = append(r.Seqs, seq)
			}
			if len(r.Seqs) == 0 && r.Owner == "" {
				return usage(cmd, errors.New("want numbers of dead letters, or --owner"))
			}
			var out struct {
				DryRun  bool           `json:"dryRun"`
				Results []dlq.Replayed `json:"results"`
			}
			if err := c.call(cmd.Context(), post("/api/dlq/replay", r), &out); err != nil {
				return err
			}
			failed := 0
			err := c.print(out, func(w io.Writer) {
				for _, e := range out.Results {
					state := "replayed"
					switch {
					case e.Error != "":
						state = "failed: " + e.Error
					case out.DryRun:
						state = "would be replayed"
					}
					fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", e.Seq, e.ID, e.Subject, state)
				}
			})
			for _, e := range out.Results {
				if e.Error != "" {
					failed++
				}
			}
			if err == nil && failed > 0 {
				err = fmt.Errorf("%d of %d dead letters were not replayed", failed, len(out.Results))
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Owner, "owner", "", "all of this bridge, or app.subscription")
	f.StringVar(&r.Subject, "subject", "", "publish on this subject instead")
	f.BoolVar(&r.DryRun, "dry-run", false, "only say what would happen")
	f.BoolVar(&r.Keep, "keep", false, "leave the dead letters in place")
	return cmd
}

func number(cmd *cobra.Command, arg string) (string, error) {
	if _, err := strconv.ParseUint(arg, 10, 64); err != nil {
		return "", usage(cmd, fmt.Errorf("%q: want the number of a dead letter", arg))
	}
	return arg, nil
}
