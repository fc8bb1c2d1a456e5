package bus

import (
	"context"
	"errors"
	"fmt"

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
