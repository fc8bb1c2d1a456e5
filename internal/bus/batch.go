package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// batch is a group of items that is committed as one atomic batch of JetStream
// (ADR-50 of NATS). It may be sent in parts; sending the last item commits it.
type batch struct {
	items []*item
	bytes int
	seen  map[string]struct{} // message ids: a repetition would make the server refuse all
	sent  int                 // items sent
	id    []string
	err   error // why it cannot be committed as it is
}

func newBatch() *batch {
	return &batch{seen: make(map[string]struct{}, batchEvents)}
}

func (b *batch) reset() {
	clear(b.items)
	clear(b.seen)
	b.items, b.bytes, b.sent, b.id, b.err = b.items[:0], 0, 0, nil, nil
}

// add takes an item in, unless it does not fit or its id is there already.
func (b *batch) add(it *item) bool {
	if len(b.items) == batchEvents || len(b.items) > 0 && b.bytes+it.size > batchBytes {
		return false
	}
	id := it.msg.Header[nats.MsgIdHdr][0]
	if _, again := b.seen[id]; again {
		return false
	}
	b.seen[id] = struct{}{}
	b.items = append(b.items, it)
	b.bytes += it.size
	return true
}

// sequences are the values of the batch sequence header, made once.
var sequences = func() (s [batchEvents]string) {
	for i := range s {
		s[i] = strconv.Itoa(i + 1)
	}
	return s
}()

// send sends the items up to n that were not sent yet. The last one is sent with
// reply and commits the batch, if reply is given.
func (c *committer) send(b *batch, n int, reply string) {
	if b.id == nil {
		b.id = []string{nuid.Next()}
	}
	for ; b.sent < n && b.err == nil; b.sent++ {
		m := &b.items[b.sent].msg
		m.Header[headerBatchID] = b.id
		m.Header[headerBatchSeq] = sequences[b.sent : b.sent+1 : b.sent+1]
		m.Reply = ""
		if b.sent == n-1 && reply != "" {
			m.Header[headerBatchCommit] = sequences[0:1:1]
			m.Reply = reply
		}
		if err := c.bus.nc.PublishMsg(m); err != nil {
			mapped, again := sendError(err)
			if b.err = mapped; again {
				b.err = fmt.Errorf("%w: %w", errNoAnswer, err)
			}
		}
		delete(m.Header, headerBatchID)
		delete(m.Header, headerBatchSeq)
		delete(m.Header, headerBatchCommit)
	}
}

// commit settles every item of the batch. What the server refuses is halved
// until the message at fault stands alone, so that it cannot hurt the others.
func (c *committer) commit(ctx context.Context, b *batch) {
	c.bus.m.batches.Observe(float64(len(b.items)))
	last, err := c.seal(b)
	switch {
	case err == nil:
		for i, it := range b.items {
			c.bus.stored(it, last-uint64(len(b.items)-1-i), false)
		}
	case errors.Is(err, errNoAnswer):
		c.bus.epoch.Store(nil) // perhaps another stream stands there now
		c.single(ctx, b.items)
	default:
		c.bus.m.split.Inc()
		c.halve(ctx, b.items)
	}
}

func (c *committer) halve(ctx context.Context, items []*item) {
	for _, half := range [][]*item{items[:len(items)/2], items[len(items)/2:]} {
		if len(half) < batchFloor {
			c.single(ctx, half)
			continue
		}
		b := newBatch()
		for _, it := range half {
			b.add(it)
		}
		c.commit(ctx, b)
	}
}

// seal sends what is left of the batch and waits for its acknowledgement, which
// gives the sequence of the last item. The next batch is sent ahead meanwhile.
func (c *committer) seal(b *batch) (last uint64, err error) {
	reply := c.nextReply()
	c.send(b, len(b.items), reply+"0")
	if b.err != nil {
		return 0, b.err
	}
	timer := time.NewTimer(c.bus.answerWait(1))
	defer timer.Stop()
	for {
		select {
		case m := <-c.acks:
			if !strings.HasPrefix(m.Subject, reply) {
				continue
			}
			ack, err := readAck(m)
			if err == nil && ack.Error != nil {
				err = ack.Error
			}
			if err == nil && ack.Count != len(b.items) {
				err = fmt.Errorf("%w: batch of %d acknowledged as %d", errNoAnswer, len(b.items), ack.Count)
			}
			return ack.Seq, err
		case <-c.wake:
			c.ahead()
		case <-c.lost:
			return 0, errNoAnswer
		case <-timer.C:
			return 0, errNoAnswer
		}
	}
}

// ahead sends the head of the queue as part of the next batch, but for one item,
// which is kept to commit it.
func (c *committer) ahead() {
	c.take(batchAhead)
	if n := len(c.next.items); n >= batchFloor {
		c.send(c.next, n-1, "")
	}
}
