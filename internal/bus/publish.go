package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/obs"
)

// Publication is one event to store.
type Publication struct {
	Subject string // Weft subject, such as orders.created
	Event   event.Event
	MsgID   string // what the stream dedupes by; default Event.Key()
}

// Ack says where an event was stored. The event is durable.
type Ack struct {
	ID        string `json:"id"`
	Subject   string `json:"subject"`
	Site      string `json:"site"`
	Seq       uint64 `json:"seq"`
	Cursor    string `json:"cursor"`
	Duplicate bool   `json:"duplicate"`
}

// Result is the outcome of one of several publications.
type Result struct {
	Ack Ack
	Err error // event.ErrRejected, ErrUnavailable or the context's
}

// item is one publication on its way through the committer. Its committer owns
// it from enqueue to settle.
type item struct {
	ctx      context.Context
	msg      nats.Msg
	size     int
	event    event.Event // only its identity and trace context are used
	path     string
	queuedAt time.Time
	res      Result
	cause    error // why the last attempt had no final answer
	call     *call
}

// call is one Publish or PublishAll waiting for its items.
type call struct {
	mu   sync.Mutex
	left int           // items not settled yet; guarded by mu
	done chan struct{} // gets one value when left reaches 0
	one  item          // the item of a lone Publish
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// settle ends an item with its result.
func (it *item) settle() {
	c := it.call
	c.mu.Lock()
	c.left--
	last := c.left == 0
	c.mu.Unlock()
	if last {
		c.done <- struct{}{}
	}
}

// Publish stores one event and returns after the site's PubAck. It waits for
// nobody when it comes alone; publications that arrive together are committed
// together. Publications of one caller are stored in the order of its calls.
func (b *Bus) Publish(ctx context.Context, p Publication) (Ack, error) {
	c := calls.Get().(*call)
	c.left = 1
	it := &c.one
	*it = item{call: c}
	if err := b.prepare(ctx, it, p); err != nil {
		calls.Put(c)
		return Ack{}, err
	}
	if err := b.pub.enqueue(ctx, it); err != nil {
		calls.Put(c)
		return Ack{}, fmt.Errorf("publish %s: %w", p.Subject, err)
	}
	select {
	case <-c.done:
		res := it.res
		*it = item{}
		calls.Put(c)
		return res.Ack, res.Err
	case <-ctx.Done(): // the committer still holds the call: it is not reused
		return Ack{}, fmt.Errorf("publish %s: %w", p.Subject, ctx.Err())
	}
}

// PublishAll stores events in order and returns one result for each. An event
// that is refused does not keep the others from being stored.
func (b *Bus) PublishAll(ctx context.Context, ps []Publication) []Result {
	results := make([]Result, len(ps))
	items := make([]item, len(ps))
	c := &call{done: make(chan struct{}, 1), left: 1}
	for i, p := range ps {
		it := &items[i]
		it.call = c
		if it.res.Err = b.prepare(ctx, it, p); it.res.Err != nil {
			continue
		}
		c.mu.Lock()
		c.left++
		c.mu.Unlock()
		if err := b.pub.enqueue(ctx, it); err != nil {
			it.res.Err = fmt.Errorf("publish %s: %w", p.Subject, err)
			it.settle()
		}
	}
	(&item{call: c}).settle() // the one counted for this loop
	select {
	case <-c.done:
		for i := range items {
			results[i] = items[i].res
		}
	case <-ctx.Done(): // items may still change: only what was refused here is known
		for i := range results {
			results[i].Err = fmt.Errorf("publish %s: %w", ps[i].Subject, ctx.Err())
		}
	}
	return results
}

// prepare checks a publication and encodes it, in the caller's goroutine.
func (b *Bus) prepare(ctx context.Context, it *item, p Publication) error {
	if err := event.CheckSubject(p.Subject); err != nil {
		return err
	}
	if err := p.Event.Validate(); err != nil {
		return err
	}
	header, data := p.Event.NATS()
	if p.MsgID == "" {
		p.MsgID = p.Event.Key()
	}
	it.queuedAt = time.Now()
	values := [2]string{p.MsgID, strconv.FormatInt(it.queuedAt.UnixNano(), 10)}
	header[nats.MsgIdHdr] = values[0:1:1]
	header[event.HeaderAccepted] = values[1:2:2]
	it.ctx, it.event, it.path = ctx, p.Event, p.Subject
	it.msg = nats.Msg{Subject: event.OnMesh(b.site, p.Subject), Header: header, Data: data}
	it.size = len(it.msg.Subject) + len(data)
	for k, vs := range header {
		for _, v := range vs {
			it.size += len(k) + len(v) + 4
		}
	}
	if limit := b.nc.MaxPayload(); limit > 0 && int64(it.size-len(it.msg.Subject)) > limit-batchHeaders {
		return event.TooLarge("data", "data and headers that fit the node's message limit", int(limit-batchHeaders))
	}
	return nil
}

// stored ends an item whose message is at seq.
func (b *Bus) stored(it *item, seq uint64, duplicate bool) {
	it.res.Ack = Ack{ID: it.event.ID, Subject: it.path, Site: b.site, Seq: seq, Duplicate: duplicate}
	it.res.Ack.Cursor = event.Cursor{Stream: Stream, Epoch: b.pub.epoch, Seq: seq}.String()
	if duplicate {
		b.m.duplicate.Inc()
	} else {
		b.m.stored.Inc()
		b.storeSpan(it)
	}
	it.settle()
}

// failed ends an item with an error.
func (b *Bus) failed(it *item, err error) {
	if errors.Is(err, event.ErrRejected) {
		b.m.refused.Inc()
	} else {
		b.m.unavailable.Inc()
	}
	it.res.Err = fmt.Errorf("publish %s: %w", it.path, err)
	it.settle()
}

// storeSpan records the time from the call to the PubAck.
func (b *Bus) storeSpan(it *item) {
	if !obs.Sampled(it.event) {
		return
	}
	ctx := obs.Parent(context.Background(), it.event)
	_, span := b.Tracer.Start(ctx, "store "+Stream, storeSpanOptions(it, b.site)...)
	span.End()
}
