package webhook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
)

// consume takes the events of the stream while there are endpoints. Without
// any it keeps no consumer, so that webhooks cost nothing where nobody has one.
func (e *engine) consume(ctx context.Context) {
	for ctx.Err() == nil {
		if !e.wanted() {
			if err := e.st.js.DeleteConsumer(ctx, bus.Stream, durableEvents); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				e.Log.WarnContext(ctx, "idle webhook consumer not deleted", "err", err)
			}
			select {
			case <-e.counted:
			case <-ctx.Done():
			}
			continue
		}
		err := e.begin(ctx)
		if err == nil {
			err = e.consumeWhileWanted(ctx)
		}
		if err != nil && ctx.Err() == nil {
			e.Log.WarnContext(ctx, "webhook consumer interrupted", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// wanted reports whether there are endpoints; if not, the engine is idle from
// now on.
func (e *engine) wanted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.tracks) == 0 {
		e.idle = true
	}
	return len(e.tracks) > 0
}

// begin makes the consumer, if there is none, and only then looks where the
// stream ends: all after that end comes by the consumer, and all before it is
// read by the lanes' cursors, so nothing falls between.
func (e *engine) begin(ctx context.Context) error {
	_, err := e.st.js.Consumer(ctx, bus.Stream, durableEvents)
	removed := errors.Is(err, jetstream.ErrConsumerNotFound)
	_, err = e.st.js.CreateConsumer(ctx, bus.Stream, jetstream.ConsumerConfig{
		Durable: durableEvents, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy,
		FilterSubjects: []string{event.PatternOnMesh(">")}, AckWait: eventsAckWait, MaxAckPending: eventsPending,
	})
	if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("make webhook consumer: %w", err)
	}
	info, err := e.Source.Info(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.idle && !removed {
		return nil // consuming goes on after an interruption
	}
	for _, t := range e.tracks {
		t.Lag(e.head) // only if somebody removed the consumer: read on by cursor
	}
	e.idle = false
	e.base, e.head, e.first = info.Last, info.Last, info.First
	for _, t := range e.tracks {
		e.read(t, now)
	}
	return nil
}

// consumeWhileWanted dispatches events until ctx ends or no endpoint is left.
func (e *engine) consumeWhileWanted(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { // ends with ctx
		defer close(watched)
		for {
			select {
			case <-e.counted:
				if !e.wanted() {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	err := e.Source.Consume(ctx, bus.ConsumeConfig{
		Durable: durableEvents, Patterns: []string{">"}, AckWait: eventsAckWait, MaxAckPending: eventsPending,
	}, e.dispatch)
	cancel()
	<-watched
	return err
}
