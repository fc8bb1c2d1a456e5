package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// stored is a message read straight from a stream.
type stored struct {
	seq  uint64
	at   time.Time
	data []byte
}

// page asks for messages of a stream from a sequence or time on. It makes no
// consumer.
type page struct {
	Seq      uint64     `json:"seq,omitempty"`
	NextFor  string     `json:"next_by_subj,omitempty"`
	Batch    int        `json:"batch"`
	MaxBytes int        `json:"max_bytes,omitempty"`
	Start    *time.Time `json:"start_time,omitempty"`
}

// fetch reads one page by the stream's direct-get API.
func fetch(ctx context.Context, nc *nats.Conn, stream string, p page) ([]stored, error) {
	body, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, body); err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	var out []stored
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("read stream %s: %w", stream, err)
		}
		switch m.Header.Get("Status") {
		case "":
		case "204", "404": // end of the page; nothing there
			return out, nil
		default:
			return nil, fmt.Errorf("read stream %s: %s", stream, m.Header.Get("Description"))
		}
		if len(m.Data) == 0 && m.Header == nil {
			return nil, fmt.Errorf("read stream %s: %w", stream, errors.ErrUnsupported)
		}
		s := stored{data: m.Data}
		s.seq, _ = strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		s.at, _ = time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
		out = append(out, s)
	}
}
