package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"weft.dev/weft/internal/wire"
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
	bus  *Bus
	near *wire.Conn // nil: there is none
	id   string
	n    int
	err  error // why it cannot be committed
}

// Begin begins a batch.
func (b *Bus) Begin() *Batch {
	a := &Batch{bus: b, id: nuid.Next()}
	a.near, a.err = b.near.get()
	return a
}

// Add adds a message. Commit tells what went wrong.
func (a *Batch) Add(m wire.Message) {
	if m, ok := a.next(m, ""); !ok {
		return
	} else if a.near != nil {
		a.note(a.near.Publish(m))
	} else {
		a.note(a.bus.nc.PublishMsg(message(m)))
	}
}

// next numbers a message. The server looks for its own headers first, from the
// front.
func (a *Batch) next(m wire.Message, last string) (_ wire.Message, ok bool) {
	if a.n == MaxAtomic && a.err == nil {
		a.err = fmt.Errorf("%w: more than %d messages", ErrUnavailable, MaxAtomic)
	}
	if a.err != nil {
		return m, false
	}
	m.First = headerBatchID + ": " + a.id + "\r\n" + headerBatchSeq + ": " + sequences[a.n] + "\r\n" + last + m.First
	a.n++
	return m, true
}

func (a *Batch) note(err error) {
	if err != nil {
		a.err, _ = sendError(err)
	}
}

// message is a message as the connection takes it that all else uses.
func message(m wire.Message) *nats.Msg {
	out := &nats.Msg{Subject: m.Subject, Header: nats.Header{}, Data: m.Data}
	for _, part := range [][]byte{[]byte(m.First), m.Header} {
		_ = wire.Lines(part, func(name, value []byte) { // what are no lines the server would refuse
			out.Header[string(name)] = append(out.Header[string(name)], string(value))
		})
	}
	return out
}

// Commit adds a last message and stores the batch; it returns the sequence of
// that message. ErrUnavailable leaves open whether the batch is stored.
func (a *Batch) Commit(ctx context.Context, m wire.Message) (last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	var data []byte
	if m, ok := a.next(m, headerBatchCommit+": 1\r\n"); ok {
		data, err = a.request(ctx, m)
		a.note(err)
	}
	if a.err != nil {
		return 0, fmt.Errorf("commit: %w", a.err)
	}
	ack, err := readAck(&nats.Msg{Data: data})
	switch {
	case err != nil:
		return 0, unavailable("commit", err)
	case ack.Error != nil:
		return 0, fmt.Errorf("commit: %w: %w", atomicError(ack.Error), ack.Error)
	}
	return ack.Seq, nil
}

func (a *Batch) request(ctx context.Context, m wire.Message) ([]byte, error) {
	if a.near != nil {
		return a.near.Request(ctx, m)
	}
	answer, err := a.bus.nc.RequestMsgWithContext(ctx, message(m))
	if err != nil {
		return nil, err
	}
	return answer.Data, nil
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
