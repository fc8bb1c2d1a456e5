package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft.dev/weft/event"
)

// subFlags are the flags of weft sub.
type subFlags struct {
	from     string
	since    time.Duration
	last     int
	all      bool
	filter   string
	count    int
	idleExit time.Duration
}

func (c *cli) sub() *cobra.Command {
	var f subFlags
	cmd := &cobra.Command{
		Use:   "sub PATTERN",
		Short: "Print events as they happen, or from history",
		Long: `Print events that match PATTERN (* is one token, > the rest). Without a start only
new events are shown. With -o json every line is one event as CloudEvents JSON. A lost
connection is resumed where it broke; a gap in history is reported on standard error.`,
		Example: `  weft sub 'orders.>'
  weft sub 'orders.*' --all --idle-exit 1s -o json
  weft sub '>' --last 20 --filter '{"prefix":{"type":"orders."}}'`,
		Args: cobra.ExactArgs(1),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.from, "from", "", "start after this cursor")
	fl.DurationVar(&f.since, "since", 0, "start this long ago, such as 15m")
	fl.IntVar(&f.last, "last", 0, "start with the last N events")
	fl.BoolVar(&f.all, "all", false, "start with the oldest event kept")
	fl.StringVar(&f.filter, "filter", "", "filter on attributes, as CloudEvents Subscriptions JSON")
	fl.IntVar(&f.count, "count", 0, "stop after N events (0: never)")
	fl.DurationVar(&f.idleExit, "idle-exit", 0, "stop when no event came for this long (0: never)")
	cmd.MarkFlagsMutuallyExclusive("from", "since", "last", "all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := errors.Join(event.CheckPattern(args[0]), f.validate()); err != nil {
			return usage(cmd, err)
		}
		s := &subscription{cli: c, pattern: args[0], flags: f}
		return s.run(cmd.Context())
	}
	return cmd
}

func (f subFlags) validate() error {
	var errs []error
	for name, wrong := range map[string]bool{"since": f.since < 0, "last": f.last < 0, "count": f.count < 0, "idle-exit": f.idleExit < 0} {
		if wrong {
			errs = append(errs, fmt.Errorf("--%s: want 0 or more", name))
		}
	}
	return errors.Join(errs...)
}

// subscription follows one pattern over SSE and resumes by cursor.
type subscription struct {
	*cli
	pattern string
	flags   subFlags
	idle    func() // an event came
	cursor  string
	seen    int
}

// errDone ends a subscription that has what it wanted.
var errDone = errors.New("done")

func (s *subscription) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.idle = func() {}
	if d := s.flags.idleExit; d > 0 { // also while there is no connection
		t := time.AfterFunc(d, cancel)
		defer t.Stop()
		s.idle = func() { t.Reset(d) }
	}
	pause := 250 * time.Millisecond
	for {
		before := s.seen
		err := s.stream(ctx)
		refused, answered := errors.AsType[*refusal](err)
		switch {
		case errors.Is(err, errDone), ctx.Err() != nil:
			return nil
		case s.cursor == "" && s.seen == 0:
			return err // never connected: the caller should know at once
		case answered && refused.final():
			return err
		}
		if s.seen > before {
			pause = 250 * time.Millisecond
		}
		fmt.Fprintf(s.Stderr, "weft: disconnected (%v), resuming in %v\n", err, pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(pause*2, 20*time.Second)
	}
}

func (s *subscription) query() string {
	q := url.Values{"subject": {s.pattern}}
	if s.flags.filter != "" {
		q.Set("filter", s.flags.filter)
	}
	switch f := s.flags; {
	case f.from != "":
		q.Set("start", "after:"+f.from)
	case f.since > 0:
		q.Set("start", "ago:"+f.since.String())
	case f.last > 0:
		q.Set("start", "last:"+strconv.Itoa(f.last))
	case f.all:
		q.Set("start", "all")
	}
	return "/v1/events?" + q.Encode()
}

// stream reads one connection until it breaks or the subscription is done.
func (s *subscription) stream(ctx context.Context) error {
	h := http.Header{"Accept": {"text/event-stream"}}
	if s.cursor != "" {
		h.Set("Last-Event-ID", s.cursor)
	}
	resp, err := s.do(ctx, request{method: http.MethodGet, path: s.query(), header: h})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return s.read(resp.Body)
}

func (s *subscription) read(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 64<<10), maxAnswer)
	var id, kind string
	var data strings.Builder
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			data.WriteString(value)
		}
		if lines.Text() != "" {
			continue
		}
		if data.Len() > 0 {
			if err := s.message(kind, data.String()); err != nil {
				return err
			}
		}
		if id != "" {
			s.cursor = id
		}
		id, kind = "", ""
		data.Reset()
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}

// message prints one event, or tells of a control message.
func (s *subscription) message(kind, data string) error {
	if kind == "weft" {
		s.control(data)
		return nil
	}
	s.idle()
	if s.json() {
		fmt.Fprintln(s.Stdout, data)
	} else {
		var e event.Event
		if err := e.UnmarshalJSON([]byte(data)); err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		// The gateway tells the subject where it is not the type.
		subject := cmp.Or(e.Extensions[event.ExtSubject], e.Type)
		fmt.Fprintf(s.Stdout, "%s  %s  %s  %s\n", e.Time, subject, e.ID, preview(e))
	}
	s.seen++
	if s.flags.count > 0 && s.seen >= s.flags.count {
		return errDone
	}
	return nil
}

// control tells of a gap; positions in it are FEED:SEQUENCE.
func (s *subscription) control(data string) {
	var m struct{ T, Why, From, To string }
	if json.Unmarshal([]byte(data), &m) != nil || m.T != "gap" {
		return
	}
	_, from, _ := strings.Cut(m.From, ":")
	_, to, bounded := strings.Cut(m.To, ":")
	if bounded {
		fmt.Fprintf(s.Stderr, "weft: gap: events %s to %s are gone (%s)\n", from, to, m.Why)
		return
	}
	fmt.Fprintf(s.Stderr, "weft: gap: events from %s on are gone (%s)\n", from, m.Why)
}

// preview is the data on one line, shortened.
func preview(e event.Event) string {
	const most = 200
	b := e.AppendJSON(nil)
	var m struct {
		Data   json.RawMessage `json:"data"`
		Base64 string          `json:"data_base64"`
	}
	_ = json.Unmarshal(b, &m) // our own encoding
	text := string(m.Data)
	if m.Base64 != "" {
		text = fmt.Sprintf("(%d bytes)", len(e.Data))
	}
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
