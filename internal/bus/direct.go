package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Raw is a stored message as it is.
type Raw struct {
	Subject string // on NATS
	Seq     uint64
	Header  nats.Header
	Data    []byte
	At      time.Time // when it was stored
}

// Last reads the newest message on a NATS subject of the site's stream; false:
// there is none. The stream's leader answers, so nothing stored before is missed.
func (b *Bus) Last(ctx context.Context, subject string) (Raw, bool, error) {
	return b.get(ctx, map[string]any{"last_by_subj": subject})
}

// First reads the oldest message on a NATS subject, which may have wildcards, as
// Last does.
func (b *Bus) First(ctx context.Context, subject string) (Raw, bool, error) {
	return b.get(ctx, map[string]any{"seq": 1, "next_by_subj": subject})
}

// At reads the message at a sequence of the site's stream, as Last does.
func (b *Bus) At(ctx context.Context, seq uint64) (Raw, bool, error) {
	return b.get(ctx, map[string]any{"seq": seq})
}

func (b *Bus) get(ctx context.Context, query map[string]any) (Raw, bool, error) {
	req, err := json.Marshal(query)
	if err != nil {
		return Raw{}, false, fmt.Errorf("encode message query: %w", err)
	}
	m, err := b.ask(ctx, "$JS.API.STREAM.MSG.GET."+Stream, req)
	if err != nil {
		return Raw{}, false, unavailable("read message", err)
	}
	var answer struct {
		Error   *apiError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return Raw{}, false, unavailable("read message", err)
	}
	if e := answer.Error; e != nil {
		if e.ErrCode == codeNoMessage {
			return Raw{}, false, nil
		}
		return Raw{}, false, unavailable("read message", e)
	}
	got := answer.Message
	raw := Raw{Subject: got.Subject, Seq: got.Seq, Data: got.Data, At: got.Time}
	if len(got.Header) > 0 {
		if raw.Header, err = nats.DecodeHeadersMsg(got.Header); err != nil {
			return Raw{}, false, fmt.Errorf("read headers of message %d: %w", got.Seq, err)
		}
	}
	return raw, true, nil
}

// Behind counts the messages on a NATS subject after a sequence of the site's
// stream and returns the first of them, without its headers. The node that
// holds the stream's lead answers itself; elsewhere the answer may be a moment old.
func (b *Bus) Behind(ctx context.Context, subject string, after uint64) (count uint64, first Raw, err error) {
	req, err := json.Marshal(map[string]any{"seq": after + 1, "next_by_subj": subject, "batch": 1})
	if err != nil {
		return 0, first, fmt.Errorf("encode message query: %w", err)
	}
	m, err := b.ask(ctx, "$JS.API.DIRECT.GET."+Stream, req)
	if err != nil {
		return 0, first, unavailable("count messages", err)
	}
	switch status := directStatus(m); status {
	case "":
	case "404":
		return 0, first, nil
	default:
		return 0, first, unavailable("count messages", fmt.Errorf("status %s: %s", status, m.Header.Get("Description")))
	}
	first, err = directRaw(m)
	pending, errPending := strconv.ParseUint(serverHeader(m, "Nats-Num-Pending"), 10, 64)
	if err := errors.Join(err, errPending); err != nil {
		return 0, first, unavailable("count messages", err)
	}
	return pending + 1, first, nil
}

// serverHeader is what the server says of a stored message. It stands behind
// the message's own headers, which may have the same name.
func serverHeader(m *nats.Msg, name string) string {
	vs := m.Header.Values(name)
	if len(vs) == 0 {
		return ""
	}
	return vs[len(vs)-1]
}

// directStatus is the status of an answer that is no stored message.
func directStatus(m *nats.Msg) string {
	if len(m.Data) > 0 || m.Header.Get(headerSeq) != "" {
		return ""
	}
	return m.Header.Get("Status")
}

const headerSeq = "Nats-Sequence"

// directRaw reads the stored message of an answer.
func directRaw(m *nats.Msg) (Raw, error) {
	seq, errSeq := strconv.ParseUint(serverHeader(m, headerSeq), 10, 64)
	at, errAt := time.Parse(time.RFC3339Nano, serverHeader(m, "Nats-Time-Stamp"))
	if err := errors.Join(errSeq, errAt); err != nil {
		return Raw{}, fmt.Errorf("answer without sequence and time: %w", err)
	}
	return Raw{Subject: serverHeader(m, "Nats-Subject"), Seq: seq, Header: m.Header, Data: m.Data, At: at}, nil
}

const (
	// readFirst is how long a read waits for its first answer. The node that has
	// the question may be gone; it is asked again, each time with more patience.
	readFirst = 500 * time.Millisecond
	// readPatience bounds a read; an election takes up to 9 s.
	readPatience = 10 * time.Second
)

// patiently repeats a read that nobody answers until ctx or its patience ends.
// once ends, with an error, when it has heard nothing for as long as it may wait.
func patiently(ctx context.Context, once func(ctx context.Context, wait time.Duration) error) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	for wait := readFirst; ; wait = min(2*wait, apiTimeout) {
		pause := time.NewTimer(wait)
		err := once(ctx, wait)
		if errors.Is(err, nats.ErrNoResponders) { // not at once again
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
		pause.Stop()
		silent := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders)
		if !silent || ctx.Err() != nil {
			return err
		}
	}
}

// within bounds a read of one answer.
func within(once func(context.Context) error) func(context.Context, time.Duration) error {
	return func(ctx context.Context, wait time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		return once(ctx)
	}
}

// ask puts a question to the stream and reads the one answer.
func (b *Bus) ask(ctx context.Context, subject string, question []byte) (m *nats.Msg, err error) {
	err = patiently(ctx, within(func(ctx context.Context) error {
		m, err = b.nc.RequestWithContext(ctx, subject, question)
		return err
	}))
	return m, err
}
