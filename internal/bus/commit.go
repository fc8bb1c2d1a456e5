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
	// batchAhead is how many publishes wait while a batch is being committed
	// until the next batch is begun: they then travel while the server works.
	batchAhead = 8
	// gatherMax is how long a batch grows at most after another one: its fixed
	// cost is about half a millisecond, so a little waiting makes everyone faster.
	gatherMax = 2 * time.Millisecond
	// batchHeaders is room for the batch headers within max_payload.
	batchHeaders = 160
	// queueEvents and queueBytes bound what waits for a commit; callers block.
	queueEvents = 8192
	queueBytes  = 64 << 20
	// ackWait is how long one attempt waits for the server. Where the stream has
	// replicas its leader may go, and with it the answers to what was under way, so
	// the first attempts there wait ackFirst and then longer each time. An election
	// after a leader's death takes 4 to 9 s, during which attempts are refused at
	// once: an item is tried again until patience ends.
	ackWait  = 2 * time.Second
	ackFirst = 300 * time.Millisecond
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
// run) commits what is there. While the server commits a batch, the next one is
// already sent to it, all but its last message, which commits it in turn.
type committer struct {
	bus        *Bus
	perMessage bool
	wake       chan struct{} // holds one value when the queue has reached notify

	mu     sync.Mutex
	queue  []*item       // guarded by mu
	bytes  int           // of queue; guarded by mu
	notify int           // length of queue that wakes run; guarded by mu
	room   chan struct{} // closed when the queue shrinks; guarded by mu
	ended  bool          // no more items are taken; guarded by mu

	// Owned by run.
	next, spare *batch // what is committed next, perhaps partly sent; an empty one
	epoch       string
	inbox       string
	acks        chan *nats.Msg
	lost        chan nats.Status // tells that the connection broke: answers will not come
	attempt     uint64
}

func newCommitter(b *Bus) *committer {
	return &committer{
		bus:    b,
		wake:   make(chan struct{}, 1),
		notify: 1,
		room:   make(chan struct{}),
		next:   newBatch(),
		spare:  newBatch(),
		acks:   make(chan *nats.Msg, 2*batchEvents), // one attempt and stale answers of the one before
	}
}

// enqueue hands an item to the committer; it blocks while the queue is full.
func (c *committer) enqueue(ctx context.Context, it *item) error {
	if err := errors.Join(ctx.Err(), c.bus.refused()); err != nil {
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
			enough := len(c.queue) == c.notify
			c.mu.Unlock()
			if enough {
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

// drain commits until the queue is empty.
func (c *committer) drain(ctx context.Context) {
	for last := 0; ; {
		if last >= batchFloor && !c.perMessage {
			c.gather(last)
		}
		c.take(1)
		if last = len(c.next.items); last == 0 {
			return
		}
		start := time.Now()
		c.learnEpoch(ctx)
		now := c.next
		c.next, c.spare = c.spare, nil
		if c.perMessage || last < batchFloor && now.sent == 0 {
			c.single(ctx, now.items)
		} else {
			c.commit(ctx, now)
		}
		now.reset()
		c.spare = now
		c.bus.m.commit.Observe(time.Since(start).Seconds())
	}
}

// gather lets callers that were just answered join the next batch: until it has
// three quarters of the last one, which most of them then have, or gatherMax is
// over. What has come is sent ahead meanwhile.
func (c *committer) gather(last int) {
	timer := time.NewTimer(gatherMax)
	defer timer.Stop()
	for {
		c.ahead()
		if len(c.next.items) >= last*3/4 {
			return
		}
		select {
		case <-c.wake:
		case <-timer.C:
			return
		}
	}
}

// take moves the head of the queue to the next batch, as far as it fits, if the
// queue holds at least so many; if not, that is what wakes the committer.
func (c *committer) take(least int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) < least {
		c.notify = least
		return
	}
	c.notify = batchAhead
	n := 0
	for n < len(c.queue) && c.next.add(c.queue[n]) {
		c.bytes -= c.queue[n].size
		n++
	}
	if n == 0 {
		return
	}
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	close(c.room)
	c.room = make(chan struct{})
	c.bus.m.queue.Set(float64(rest))
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
