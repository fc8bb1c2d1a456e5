package cli

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"weft.dev/weft/event"
)

// pubFlags are the flags of weft pub.
type pubFlags struct {
	data, file  string
	contentType string
	headers     []string
}

// answer is what the node says of one accepted event.
type answer struct {
	ID        string `json:"id"`
	Subject   string `json:"subject"`
	Site      string `json:"site"`
	Seq       uint64 `json:"seq"`
	Cursor    string `json:"cursor"`
	Duplicate bool   `json:"duplicate"`
}

func (c *cli) pub() *cobra.Command {
	var f pubFlags
	cmd := &cobra.Command{
		Use:   "pub SUBJECT",
		Short: "Publish an event",
		Long: `Publish one event and wait until it is stored. Attributes are given with -H as
CloudEvents headers; what is missing (id, source, type, time) is filled in. The event's
trace is always kept, whatever share of traces the node keeps: see "weft trace ID".`,
		Example: `  weft pub orders.created -d '{"orderId":"o-1"}'
  weft pub orders.created -f order.json -H ce-type=com.shop.order -H ce-correlationid=o-1
  echo hello | weft pub greetings -f - --type text/plain`,
		Args: cobra.ExactArgs(1),
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.data, "data", "d", "", "data of the event")
	fl.StringVarP(&f.file, "file", "f", "", "file with the data, - for standard input")
	fl.StringVar(&f.contentType, "type", "application/json", "content type of the data")
	fl.StringArrayVarP(&f.headers, "header", "H", nil, "header NAME=VALUE, such as ce-source=/billing (repeatable)")
	cmd.MarkFlagsMutuallyExclusive("data", "file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.publish(cmd, args[0], f) }
	return cmd
}

func (c *cli) publish(cmd *cobra.Command, subject string, f pubFlags) error {
	if err := event.CheckSubject(subject); err != nil {
		return usage(cmd, err)
	}
	data := []byte(f.data)
	if f.file != "" {
		var err error
		if data, err = c.input(f.file); err != nil {
			return err
		}
	}
	h := http.Header{"Content-Type": {f.contentType}}
	for _, kv := range f.headers {
		name, value, ok := strings.Cut(kv, "=")
		if !ok {
			return usage(cmd, fmt.Errorf("--header %q: want NAME=VALUE", kv))
		}
		h.Set(name, value)
	}
	if mode, _ := event.ModeOf(h); mode != event.Batched && h.Get("Traceparent") == "" {
		h.Set("Traceparent", sampledTrace())
	}
	resp, err := c.do(cmd.Context(), request{method: http.MethodPost, path: "/v1/events/" + subject, body: data, header: h})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if strings.HasPrefix(strings.TrimSpace(string(body)), "[") {
		return c.printBatch(body)
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Errorf("publish %s: the answer is no JSON: %w", subject, err)
	}
	return c.print(a, func(w io.Writer) { printAnswer(w, a) })
}

// sampledTrace is a new W3C trace context that asks for its trace to be kept.
func sampledTrace() string {
	var b [24]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("00-%x-%x-01", b[:16], b[16:])
}

func printAnswer(w io.Writer, a answer) {
	note := ""
	if a.Duplicate {
		note = "\tduplicate: already stored"
	}
	fmt.Fprintf(w, "accepted\t%s\t%s\tsite %s\tseq %d%s\n", a.ID, a.Subject, a.Site, a.Seq, note)
}

// printBatch shows a batch's answers; one refused item makes the command fail.
func (c *cli) printBatch(body []byte) error {
	var items []struct {
		answer
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Title  string `json:"title"`
	}
	if err := json.Unmarshal(body, &items); err != nil {
		return fmt.Errorf("publish: the answer is no JSON: %w", err)
	}
	refused := 0
	err := c.print(json.RawMessage(body), func(w io.Writer) {
		for i, it := range items {
			if it.Seq == 0 {
				fmt.Fprintf(w, "refused\t[%d]\t%s %s\n", i, it.Title, it.Detail)
				continue
			}
			printAnswer(w, it.answer)
		}
	})
	for _, it := range items {
		if it.Seq == 0 {
			refused++
		}
	}
	if err == nil && refused > 0 {
		err = fmt.Errorf("%d of %d events were refused", refused, len(items))
	}
	return err
}
