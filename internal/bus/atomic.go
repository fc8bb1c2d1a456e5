package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

var (
	// ErrDuplicate: a message of the batch is in the stream already, by its
	// Nats-Msg-Id. Nothing of the batch was stored.
	ErrDuplicate = errors.New("a message is stored already")
	// ErrConflict: the stream is not in the state that a message expects.
	// Nothing of the batch was stored.
	ErrConflict = errors.New("the stream has moved on")
	// ErrIncomplete: a message of the batch got lost, or the server refused it
	// without saying which. Nothing was stored. It comes with ErrUnavailable.
	ErrIncomplete = errors.New("a message of the batch is missing")
)

// MaxAtomic is how many messages a Batch stores at most.
const MaxAtomic = batchEvents

// Batch stores messages all or none, in one synced write. Its messages go to the
// server as they are added, so that they travel while it still commits what came
// before. One that is not committed is forgotten after a few seconds. It is used
// by one goroutine at a time.
type Batch struct {
	bus *Bus
	id  []string
	n   int
	err error // why it cannot be committed
}

// Begin begins a batch.
func (b *Bus) Begin() *Batch { return &Batch{bus: b, id: []string{nuid.Next()}} }

// Add sends a message as it is, but for the batch headers, which are set in
// place. Commit tells what went wrong.
func (a *Batch) Add(m *nats.Msg) { a.send(m, "") }

func (a *Batch) send(m *nats.Msg, reply string) {
	switch {
	case a.err != nil:
		return
	case a.n == MaxAtomic:
		a.err = fmt.Errorf("%w: more than %d messages", ErrUnavailable, MaxAtomic)
		return
	}
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	m.Header[headerBatchID] = a.id
	m.Header[headerBatchSeq] = sequences[a.n : a.n+1 : a.n+1]
	m.Reply = reply
	if reply != "" {
		m.Header[headerBatchCommit] = sequences[0:1:1]
	}
	a.n++
	if err := a.bus.nc.PublishMsg(m); err != nil {
		a.err, _ = sendError(err)
	}
}

// Commit adds a last message and stores the batch; it returns the sequence of
// that message. ErrUnavailable leaves open whether the batch is stored.
func (a *Batch) Commit(ctx context.Context, m *nats.Msg) (last uint64, err error) {
	inbox := a.bus.nc.NewRespInbox()
	sub, err := a.bus.nc.SubscribeSync(inbox)
	if err != nil {
		return 0, unavailable("commit", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if a.send(m, inbox); a.err != nil {
		return 0, fmt.Errorf("commit: %w", a.err)
	}
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	answer, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return 0, unavailable("commit", err)
	}
	ack, err := readAck(answer)
	switch {
	case err != nil:
		return 0, unavailable("commit", err)
	case ack.Error != nil:
		return 0, fmt.Errorf("commit: %w: %w", atomicError(ack.Error), ack.Error)
	}
	return ack.Seq, nil
}

func atomicError(e *apiError) error {
	switch e.ErrCode {
	case codeBatchDuplicate:
		return ErrDuplicate
	case codeWrongLast, codeWrongLastConstant:
		return ErrConflict
	case codeBatchIncomplete:
		return fmt.Errorf("%w: %w", ErrUnavailable, ErrIncomplete)
	case codeBatchesInFlight:
		return ErrUnavailable
	default:
		return refusal(e)
	}
}

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

// At reads the message at a sequence of the site's stream, as Last does.
func (b *Bus) At(ctx context.Context, seq uint64) (Raw, bool, error) {
	return b.get(ctx, map[string]any{"seq": seq})
}

func (b *Bus) get(ctx context.Context, query map[string]any) (Raw, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	req, err := json.Marshal(query)
	if err != nil {
		return Raw{}, false, fmt.Errorf("encode message query: %w", err)
	}
	m, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+Stream, req)
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
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	req, err := json.Marshal(map[string]any{"seq": after + 1, "next_by_subj": subject, "batch": 1})
	if err != nil {
		return 0, first, fmt.Errorf("encode message query: %w", err)
	}
	m, err := b.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+Stream, req)
	if err != nil {
		return 0, first, unavailable("count messages", err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
	case "404":
		return 0, first, nil
	default:
		return 0, first, unavailable("count messages", fmt.Errorf("status %s: %s", status, m.Header.Get("Description")))
	}
	// The server's headers stand behind the message's own.
	last := func(name string) string {
		vs := m.Header.Values(name)
		if len(vs) == 0 {
			return ""
		}
		return vs[len(vs)-1]
	}
	pending, errPending := strconv.ParseUint(last("Nats-Num-Pending"), 10, 64)
	seq, errSeq := strconv.ParseUint(last("Nats-Sequence"), 10, 64)
	at, errAt := time.Parse(time.RFC3339Nano, last("Nats-Time-Stamp"))
	if err := errors.Join(errPending, errSeq, errAt); err != nil {
		return 0, first, unavailable("count messages", err)
	}
	return pending + 1, Raw{Subject: last("Nats-Subject"), Seq: seq, Data: m.Data, At: at}, nil
}
