package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// batchEvents is JetStream's own limit of an atomic batch.
	batchEvents = 1000
	// batchBytes keeps a batch in one block of the server's staging area.
	batchBytes = 6 << 20
	// batchFloor is the size from which an atomic batch beats single publishes:
	// staging a batch costs the server about three synced writes.
	batchFloor = 4
	// gather is how long a group grows under load: a batch has a fixed cost of
	// about half a millisecond, so a little waiting makes everyone faster.
	gather = 150 * time.Microsecond
	// batchHeaders is room for the batch headers within max_payload.
	batchHeaders = 160
	// queueEvents and queueBytes bound what waits for a commit; callers block.
	queueEvents = 8192
	queueBytes  = 64 << 20
	// ackWait is how long one attempt waits for the server. An election takes up
	// to 9 s, so an item is tried again until patience ends.
	ackWait  = 5 * time.Second
	patience = 20 * time.Second
	// retryPause spaces attempts while the mesh is away.
	retryPause = 100 * time.Millisecond
)

const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// errNoAnswer: the outcome of an attempt is unknown.
var errNoAnswer = errors.New("no acknowledgement from the mesh node")

// committer is the group commit: callers append to the queue, one goroutine (in
// run) takes all that is there and commits it while the next group gathers.
type committer struct {
	bus        *Bus
	perMessage bool
	wake       chan struct{} // holds one value while the queue is not empty

	mu    sync.Mutex
	queue []*item       // guarded by mu
	bytes int           // of queue; guarded by mu
	room  chan struct{} // closed when the queue shrinks; guarded by mu
	ended bool          // no more items are taken; guarded by mu

	// Owned by run.
	spare   []*item
	epoch   string
	inbox   string
	acks    chan *nats.Msg
	lost    chan nats.Status // tells that the connection broke: answers will not come
	attempt uint64
	seen    map[string]struct{}
}

func newCommitter(b *Bus) *committer {
	return &committer{
		bus:  b,
		wake: make(chan struct{}, 1),
		room: make(chan struct{}),
		acks: make(chan *nats.Msg, 2*batchEvents), // one attempt and stale answers of the one before
		seen: make(map[string]struct{}, batchEvents),
	}
}

// enqueue hands an item to the committer; it blocks while the queue is full.
func (c *committer) enqueue(ctx context.Context, it *item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for waited := false; ; waited = true {
		c.mu.Lock()
		if c.ended {
			c.mu.Unlock()
			return fmt.Errorf("%w: shutting down", ErrUnavailable)
		}
		if len(c.queue) == 0 || len(c.queue) < queueEvents && c.bytes+it.size <= queueBytes {
			c.queue = append(c.queue, it)
			c.bytes += it.size
			first := len(c.queue) == 1
			c.mu.Unlock()
			if first {
				select {
				case c.wake <- struct{}{}:
				default:
				}
			}
			return nil
		}
		room := c.room
		c.mu.Unlock()
		if !waited {
			c.bus.m.queueFull.Inc()
		}
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run commits groups until ctx ends and the queue is empty.
func (c *committer) run(ctx context.Context) error {
	sub, err := c.bus.nc.ChanSubscribe(c.inbox+".*", c.acks)
	if err != nil {
		return fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	c.lost = c.bus.nc.StatusChanged(nats.RECONNECTING)
	defer c.bus.nc.RemoveStatusListener(c.lost)
	for {
		select {
		case <-c.wake:
			c.drain(ctx)
		case <-ctx.Done():
			c.mu.Lock()
			c.ended = true
			c.mu.Unlock()
			c.drain(ctx)
			return nil
		}
	}
}

// drain commits until the queue is empty. Under load, when the last group was
// worth a batch, it lets the callers that were just answered join the next one.
func (c *committer) drain(ctx context.Context) {
	for last := 0; ; {
		if last >= batchFloor && !c.perMessage {
			time.Sleep(gather)
		}
		group := c.take()
		if last = len(group); last == 0 {
			return
		}
		c.commit(ctx, group)
		clear(group)
	}
}

// take moves the head of the queue to the committer: at most one batch.
func (c *committer) take() []*item {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, bytes := 0, 0
	for n < len(c.queue) && n < batchEvents {
		size := c.queue[n].size
		if n > 0 && bytes+size > batchBytes {
			break
		}
		n, bytes = n+1, bytes+size
	}
	group := append(c.spare[:0], c.queue[:n]...)
	c.spare = group
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	if n > 0 {
		c.bytes -= bytes
		close(c.room)
		c.room = make(chan struct{})
	}
	c.bus.m.queue.Set(float64(rest))
	return group
}

// commit settles every item of the group, in order.
func (c *committer) commit(ctx context.Context, group []*item) {
	start := time.Now()
	c.learnEpoch(ctx)
	for len(group) > 0 {
		n := c.distinct(group)
		c.commitDistinct(ctx, group[:n])
		group = group[n:]
	}
	c.bus.m.commit.Observe(time.Since(start).Seconds())
}

// distinct is the length of the longest prefix without a repeated message id:
// a repetition inside one batch would make the server refuse all of it.
func (c *committer) distinct(group []*item) int {
	clear(c.seen)
	for i, it := range group {
		id := it.msg.Header[nats.MsgIdHdr][0]
		if _, again := c.seen[id]; again {
			return i
		}
		c.seen[id] = struct{}{}
	}
	return len(group)
}

// commitDistinct commits a group as one atomic batch. A refused batch is halved
// until the message at fault stands alone, so that it cannot hurt the others.
func (c *committer) commitDistinct(ctx context.Context, group []*item) {
	if c.perMessage || len(group) < batchFloor {
		c.single(ctx, group)
		return
	}
	last, err := c.batch(ctx, group)
	switch {
	case err == nil:
		for i, it := range group {
			c.bus.stored(it, last-uint64(len(group)-1-i), false)
		}
	case errors.Is(err, errNoAnswer):
		c.bus.epoch.Store(nil) // perhaps another stream stands there now
		c.single(ctx, group)
	default:
		c.bus.m.split.Inc()
		c.commitDistinct(ctx, group[:len(group)/2])
		c.commitDistinct(ctx, group[len(group)/2:])
	}
}

// learnEpoch reads the stream's epoch once per connection.
func (c *committer) learnEpoch(ctx context.Context) {
	if e := c.bus.epoch.Load(); e != nil {
		c.epoch = *e
		return
	}
	if info, err := c.bus.Info(context.WithoutCancel(ctx)); err == nil {
		c.epoch = info.Epoch
	}
}

// pause waits, but not once ctx has ended.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
