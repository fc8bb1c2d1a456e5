package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	durableDue = "weft_webhooks"
	// dueAckWait is longer than the longest attempt and its queueing.
	dueAckWait = 2 * time.Minute
	duePending = 4096
	// storeWait bounds one try to store something; it is tried again.
	storeWait = 5 * time.Second
)

// retryRecord is a stored retry. It holds all that is needed to go on, except
// the event, which is read from the stream.
type retryRecord struct {
	Endpoint string    `json:"ep"`
	Seq      uint64    `json:"seq"`
	Event    string    `json:"id"`
	Subject  string    `json:"subject"`
	Attempt  int       `json:"n"` // the attempt to be made
	First    time.Time `json:"first"`
	Code     int       `json:"code,omitempty"` // last status
}

// retries stores retries as scheduled messages. A retry of the same delivery
// replaces the one before, so storing is idempotent.
type retries struct {
	js  jetstream.JetStream
	log *slog.Logger
}

// put stores r to fall due at a time. It tries until ctx ends; nil means that
// the mesh has it.
func (q *retries) put(ctx context.Context, r retryRecord, at time.Time) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("store retry for %s: %w", r.Endpoint, err)
	}
	m := &nats.Msg{
		Subject: subjectStored + r.Endpoint + "." + strconv.FormatUint(r.Seq, 10),
		Header: nats.Header{
			"Nats-Schedule":        {"@at " + at.UTC().Format(time.RFC3339Nano)},
			"Nats-Schedule-Target": {subjectDue + r.Endpoint},
		},
		Data: data,
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		try, cancel := context.WithTimeout(ctx, storeWait)
		_, err := q.js.PublishMsg(try, m)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			q.log.WarnContext(ctx, "webhook retry not stored yet", "endpoint", r.Endpoint, "err", err)
		}
		if errors.Is(err, nats.ErrConnectionClosed) || !pause(ctx, wait) {
			return fmt.Errorf("store retry for %s: %w", r.Endpoint, err)
		}
	}
}

// consume hands due retries to h until ctx ends. h settles the message.
func (q *retries) consume(ctx context.Context, stream jetstream.Stream, h func(retryRecord, jetstream.Msg)) {
	for ctx.Err() == nil {
		err := q.consumeOnce(ctx, stream, h)
		if ctx.Err() != nil {
			return
		}
		q.log.WarnContext(ctx, "webhook retries interrupted", "err", err)
		pause(ctx, time.Second)
	}
}

func (q *retries) consumeOnce(ctx context.Context, stream jetstream.Stream, h func(retryRecord, jetstream.Msg)) error {
	c, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: durableDue, FilterSubject: subjectDue + "*", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: dueAckWait, MaxAckPending: duePending, MaxDeliver: -1,
	})
	if err != nil {
		return fmt.Errorf("create retry consumer: %w", err)
	}
	cc, err := c.Consume(func(m jetstream.Msg) {
		var r retryRecord
		if err := json.Unmarshal(m.Data(), &r); err != nil || r.Attempt < 1 {
			q.log.Error("webhook retry unreadable", "subject", m.Subject(), "err", err)
			_ = m.TermWithReason("unreadable") // it can never be read
			return
		}
		h(r, m)
	}, jetstream.PullMaxMessages(256), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		if ctx.Err() == nil {
			q.log.DebugContext(ctx, "webhook retry consumer", "err", err)
		}
	}))
	if err != nil {
		return fmt.Errorf("consume retries: %w", err)
	}
	defer cc.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-cc.Closed():
		return fmt.Errorf("consume retries: %w", jetstream.ErrConsumerNotFound)
	}
}
