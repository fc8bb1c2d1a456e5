package snsfake

import (
	"container/heap"
	"container/list"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// queue keeps messages in order; those in flight wait in a heap for their
// visibility timeout. The server's mutex guards it.
type queue struct {
	name       string
	fifo       bool
	byContent  bool // FIFO: the dedupe id defaults to the body's digest
	visibility time.Duration
	wait       time.Duration
	delay      time.Duration
	created    time.Time

	ready    list.List // of *message, by seq
	flight   byDeadline
	receipts map[string]*message
	groups   map[string]int // FIFO: messages in flight by group
	dedupe   dedupe
	lastSeq  uint64
	changed  chan struct{} // closed when a message may have become visible
}

func newQueue(name string, now time.Time) *queue {
	return &queue{
		name: name, fifo: strings.HasSuffix(name, ".fifo"), visibility: 30 * time.Second, created: now,
		receipts: map[string]*message{}, groups: map[string]int{}, changed: make(chan struct{}),
	}
}

// set applies attributes of CreateQueue or SetQueueAttributes.
func (q *queue) set(attrs map[string]string) error {
	for name, v := range attrs {
		seconds, err := strconv.Atoi(v)
		switch name {
		case "VisibilityTimeout", "ReceiveMessageWaitTimeSeconds", "DelaySeconds":
			if err != nil || seconds < 0 || seconds > 43200 {
				return badRequest("InvalidAttributeValue", "Invalid value for the parameter %s.", name)
			}
		}
		d := time.Duration(seconds) * time.Second
		switch name {
		case "VisibilityTimeout":
			q.visibility = d
		case "ReceiveMessageWaitTimeSeconds":
			q.wait = d
		case "DelaySeconds":
			q.delay = d
		case "ContentBasedDeduplication":
			q.byContent = v == "true"
		}
	}
	return nil
}

func (q *queue) stored() int { return q.ready.Len() + len(q.flight) }

// push stores a copy of m and returns its sequence number; a repeated
// deduplication id is accepted and not stored.
func (q *queue) push(m message, now time.Time, limit int) (seq uint64, err error) {
	if q.stored() >= limit {
		return 0, &apiError{Status: http.StatusForbidden, Code: "OverLimit", Message: "the queue is full"}
	}
	if q.fifo {
		if m.Group == "" {
			return 0, badRequest("MissingParameter", "The request must contain the parameter MessageGroupId.")
		}
		if m.Dedup == "" && q.byContent {
			m.Dedup = bodyMD5(m.Body)
		}
		if m.Dedup == "" {
			return 0, badRequest("InvalidParameterValue", "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly")
		}
		if !q.dedupe.add(m.Dedup, now) {
			return q.lastSeq, nil
		}
	}
	q.lastSeq++
	m.seq, m.sent = q.lastSeq, now
	if q.delay > 0 {
		m.visibleAt = now.Add(q.delay)
		heap.Push(&q.flight, &m)
	} else {
		q.ready.PushBack(&m)
	}
	q.wake()
	return m.seq, nil
}

func (q *queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// expire gives back the messages whose visibility timeout is over, in order.
func (q *queue) expire(now time.Time) {
	for len(q.flight) > 0 && !q.flight[0].visibleAt.After(now) {
		q.back(q.flight[0])
	}
}

func (q *queue) back(m *message) {
	q.leaveFlight(m)
	for e := q.ready.Front(); e != nil; e = e.Next() {
		if e.Value.(*message).seq > m.seq {
			q.ready.InsertBefore(m, e)
			return
		}
	}
	q.ready.PushBack(m)
}

func (q *queue) leaveFlight(m *message) {
	heap.Remove(&q.flight, m.heapIndex)
	if m.receipt == "" {
		return // it was delayed, not received
	}
	delete(q.receipts, m.receipt)
	m.receipt = ""
	if q.groups[m.Group]--; q.groups[m.Group] <= 0 {
		delete(q.groups, m.Group)
	}
}

// receive takes up to n visible messages. A FIFO group with a message in flight
// from an earlier call gives none.
func (q *queue) receive(n int, visibility time.Duration, now time.Time) []*message {
	q.expire(now)
	var taken []*message
	mine := map[string]bool{}
	for e := q.ready.Front(); e != nil && len(taken) < n; {
		next, m := e.Next(), e.Value.(*message)
		if q.fifo && q.groups[m.Group] > 0 && !mine[m.Group] {
			e = next
			continue
		}
		q.ready.Remove(e)
		mine[m.Group] = true
		m.receipt, m.visibleAt = newID(), now.Add(visibility)
		m.receives++
		if m.receives == 1 {
			m.first = now
		}
		q.groups[m.Group]++
		q.receipts[m.receipt] = m
		heap.Push(&q.flight, m)
		taken = append(taken, m)
		e = next
	}
	return taken
}

// remove deletes a message in flight; an old receipt is accepted and ignored.
func (q *queue) remove(receipt string) error {
	m, ok := q.receipts[receipt]
	if !ok {
		return badReceipt(receipt)
	}
	q.leaveFlight(m)
	q.wake() // its group may go on
	return nil
}

// show changes when a message in flight becomes visible.
func (q *queue) show(receipt string, after time.Duration, now time.Time) error {
	m, ok := q.receipts[receipt]
	if !ok {
		return badReceipt(receipt)
	}
	m.visibleAt = now.Add(after)
	heap.Fix(&q.flight, m.heapIndex)
	if after == 0 {
		q.expire(now)
		q.wake()
	}
	return nil
}

// badReceipt forgives a well-formed receipt that is no longer valid as AWS does
// for standard queues, where a late delete is no error.
func badReceipt(receipt string) error {
	if len(receipt) == 36 {
		return nil
	}
	return badRequest("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
}

// next is when the first message in flight comes back.
func (q *queue) next() (time.Time, bool) {
	if len(q.flight) == 0 {
		return time.Time{}, false
	}
	return q.flight[0].visibleAt, true
}

// byDeadline is a heap of the messages that are not visible.
type byDeadline []*message

func (h byDeadline) Len() int { return len(h) }
func (h byDeadline) Less(i, j int) bool {
	if h[i].visibleAt.Equal(h[j].visibleAt) {
		return h[i].seq < h[j].seq
	}
	return h[i].visibleAt.Before(h[j].visibleAt)
}

func (h byDeadline) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

// Push implements heap.Interface.
func (h *byDeadline) Push(x any) {
	m := x.(*message)
	m.heapIndex = len(*h)
	*h = append(*h, m)
}

// Pop implements heap.Interface.
func (h *byDeadline) Pop() any {
	old := *h
	m := old[len(old)-1]
	*h = old[:len(old)-1]
	return m
}
