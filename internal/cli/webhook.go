package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// endpoint is what the commands show of a webhook endpoint.
type endpoint struct {
	ID       string   `json:"id"`
	URL      string   `json:"url"`
	Subjects []string `json:"subjects"`
	Disabled bool     `json:"disabled"`
	Secret   string   `json:"secret"`
	Status   *struct {
		State     string `json:"state"`
		Reason    string `json:"reason"`
		Delivered uint64 `json:"delivered"`
		Failed    uint64 `json:"failed"`
		Behind    uint64 `json:"behind"`
	} `json:"status"`
}

func (c *cli) webhook() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "webhook",
		Short:   "Manage webhook endpoints",
		Example: "  weft webhook create https://partner.example/hooks 'orders.*'\n  weft webhook attempts wh_k3x",
	}
	cmd.AddCommand(c.webhookList(), c.webhookCreate(), c.webhookDelete(), c.webhookTest(), c.webhookAttempts())
	return cmd
}

func hookPath(id string, rest ...string) string {
	return strings.Join(append([]string{"/v1/webhooks/" + url.PathEscape(id)}, rest...), "/")
}

func (c *cli) webhookList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "List endpoints and how they are doing",
		Example: "  weft webhook ls -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			full, list, err := fetch[struct{ Webhooks []endpoint }](cmd.Context(), c, get("/v1/webhooks"))
			if err != nil {
				return err
			}
			return c.print(full, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tSTATE\tDELIVERED\tFAILED\tBEHIND\tSUBJECTS\tURL")
				for _, e := range list.Webhooks {
					state, delivered, failed, behind := "unknown", uint64(0), uint64(0), uint64(0)
					if s := e.Status; s != nil {
						state, delivered, failed, behind = s.State, s.Delivered, s.Failed, s.Behind
						if s.Reason != "" {
							state += " (" + s.Reason + ")"
						}
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\n", e.ID, state, delivered, failed, behind, strings.Join(e.Subjects, " "), e.URL)
				}
			})
		},
	}
}

func (c *cli) webhookCreate() *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use:     "create URL PATTERN...",
		Short:   "Create an endpoint; its secret is shown once",
		Example: "  weft webhook create https://partner.example/hooks orders.completed 'payments.*'",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{"url": args[0], "subjects": args[1:]}
			if description != "" {
				body["description"] = description
			}
			full, e, err := fetch[endpoint](cmd.Context(), c, post("/v1/webhooks", body))
			if err != nil {
				return err
			}
			return c.print(full, func(w io.Writer) {
				fmt.Fprintf(w, "id\t%s\nurl\t%s\nsubjects\t%s\nsecret\t%s\n", e.ID, e.URL, strings.Join(e.Subjects, " "), e.Secret)
			})
		},
	}
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	return cmd
}

func (c *cli) webhookDelete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete ID",
		Short:   "Delete an endpoint",
		Example: "  weft webhook delete wh_k3x",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.call(cmd.Context(), remove(hookPath(args[0])), nil); err != nil {
				return err
			}
			return c.print(map[string]string{"deleted": args[0]}, func(w io.Writer) { fmt.Fprintln(w, "deleted", args[0]) })
		},
	}
}

// attempt is one request to an endpoint.
type attempt struct {
	At      time.Time `json:"at"`
	EventID string    `json:"event"`
	Subject string    `json:"subject"`
	Attempt int       `json:"attempt"`
	Status  int       `json:"status"`
	Error   string    `json:"error"`
	Ms      float64   `json:"ms"`
}

func printAttempts(w io.Writer, list []attempt) {
	fmt.Fprintln(w, "AT\tEVENT\tSUBJECT\tATTEMPT\tSTATUS\tMS\tERROR")
	for _, a := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%.1f\t%s\n", a.At.Format(time.RFC3339), a.EventID, a.Subject, a.Attempt, a.Status, a.Ms, a.Error)
	}
}

func (c *cli) webhookTest() *cobra.Command {
	return &cobra.Command{
		Use:     "test ID",
		Short:   "Send a test event to an endpoint and show the answer",
		Example: "  weft webhook test wh_k3x",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			full, a, err := fetch[attempt](cmd.Context(), c, post(hookPath(args[0], "test"), map[string]any{}))
			if err != nil {
				return err
			}
			if err := c.print(full, func(w io.Writer) { printAttempts(w, []attempt{a}) }); err != nil {
				return err
			}
			if a.Status/100 != 2 {
				return fmt.Errorf("the endpoint did not take the test event: status %d %s", a.Status, a.Error)
			}
			return nil
		},
	}
}

func (c *cli) webhookAttempts() *cobra.Command {
	return &cobra.Command{
		Use:     "attempts ID",
		Short:   "List the attempts at an endpoint, newest first",
		Example: "  weft webhook attempts wh_k3x",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			full, list, err := fetch[struct{ Attempts []attempt }](cmd.Context(), c, get(hookPath(args[0], "attempts")))
			if err != nil {
				return err
			}
			return c.print(full, func(w io.Writer) { printAttempts(w, list.Attempts) })
		},
	}
}
