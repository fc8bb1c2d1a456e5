package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/run"
)

// pubAck is what the server answers to a publish or a batch.
type pubAck struct {
	Seq       uint64    `json:"seq"`
	Duplicate bool      `json:"duplicate"`
	Count     int       `json:"count"`
	Error     *apiError `json:"error"`
}

// single publishes items one by one, without waiting between them, and repeats
// those without an answer. Message ids keep a repetition from being stored twice.
func (c *committer) single(ctx context.Context, group []*item) {
	c.bus.m.batches.Observe(float64(len(group)))
	pending := append([]*item(nil), group...)
	for tries := 0; len(pending) > 0; tries++ {
		if tries > 0 {
			c.bus.m.retried.Add(float64(len(pending)))
			if pending = c.giveUp(ctx, pending); len(pending) == 0 {
				return
			}
			run.Pause(ctx, retryPause)
		}
		pending = c.attemptSingles(pending, c.bus.answerWait(tries))
	}
}

// answerWait is how long an attempt waits for an answer, after so many tries.
func (b *Bus) answerWait(tries int) time.Duration {
	if b.single.Load() {
		return ackWait
	}
	return min(ackFirst<<min(tries, 4), ackWait)
}

// attemptSingles sends items and returns those that got no final answer in time.
func (c *committer) attemptSingles(pending []*item, wait time.Duration) []*item {
	reply := c.nextReply()
	open := 0
	for i, it := range pending {
		it.msg.Reply = reply + strconv.Itoa(i)
		if err := c.bus.nc.PublishMsg(&it.msg); err != nil {
			mapped, again := sendError(err)
			if again {
				it.cause = mapped
				break // this one and the rest are tried again
			}
			c.bus.failed(it, mapped)
			pending[i] = nil
			continue
		}
		open++
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
wait:
	for open > 0 {
		select {
		case m := <-c.acks:
			token, ok := strings.CutPrefix(m.Subject, reply)
			i, err := strconv.Atoi(token)
			if !ok || err != nil || i >= len(pending) || pending[i] == nil {
				continue
			}
			open--
			if c.answer(pending[i], m) {
				pending[i] = nil
			}
		case <-c.lost:
			break wait
		case <-timer.C:
			break wait
		}
	}
	left := pending[:0]
	for _, it := range pending {
		if it != nil {
			left = append(left, it)
		}
	}
	return left
}

// answer settles an item by the server's answer; false means try again.
func (c *committer) answer(it *item, m *nats.Msg) bool {
	ack, err := readAck(m)
	switch {
	case err != nil:
		it.cause = err
		return false
	case ack.Error != nil && ack.Error.ErrCode == codeNotLeader:
		it.cause = ack.Error
		return false
	case ack.Error != nil:
		c.bus.failed(it, refusal(ack.Error))
	default:
		c.bus.stored(it, ack.Seq, ack.Duplicate)
	}
	return true
}

// giveUp ends the items whose caller is gone or whose time is over.
func (c *committer) giveUp(ctx context.Context, pending []*item) []*item {
	left, refused := pending[:0], c.bus.refused()
	for _, it := range pending {
		cause := it.cause
		if cause == nil {
			cause = errNoAnswer
		}
		switch {
		case it.ctx.Err() != nil:
			c.bus.failed(it, it.ctx.Err())
		case ctx.Err() != nil || refused != nil || time.Since(it.queuedAt) > patience:
			c.bus.failed(it, c.bus.unstored(cause))
		default:
			left = append(left, it)
		}
	}
	return left
}

// nextReply begins an attempt: answers to earlier ones no longer count, nor does
// a connection lost before.
func (c *committer) nextReply() string {
	select {
	case <-c.lost:
	default:
	}
	c.attempt++
	return c.inbox + "." + strconv.FormatUint(c.attempt, 36) + "-"
}

// readAck decodes an answer; an error means that it is none and to try again.
func readAck(m *nats.Msg) (pubAck, error) {
	if m.Header.Get("Status") == "503" {
		return pubAck{}, fmt.Errorf("%w: no stream takes the subject", errNoAnswer)
	}
	var ack pubAck
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return ack, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return ack, nil
}
