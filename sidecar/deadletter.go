package sidecar

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/dlq"
)

// Reasons of dead letters.
const (
	reasonClientError = "client_error" // the app refused the event with a 4xx
	reasonMaxAttempts = "max_attempts"
)

const storeTimeout = 5 * time.Second

// graveyard stores the dead letters of one subscription.
type graveyard struct {
	owner string // app.subscription
	up    *upstream
}

// bury returns when the copy is kept. Burying an event again within the
// stream's dedupe window stores nothing.
func (g *graveyard) bury(ctx context.Context, it *item) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	letter := dlq.Letter{
		Owner:       g.owner,
		Event:       it.d.Event,
		Subject:     it.d.Path,
		Reason:      it.dead,
		Error:       it.last.reason,
		Status:      it.last.status,
		Attempts:    it.attempts,
		Stream:      bus.Stream,
		Position:    strconv.FormatUint(it.d.Seq, 10),
		FirstFailed: it.firstFailed,
	}
	b, err := g.up.connected()
	if err != nil {
		return fmt.Errorf("store dead letter of %s: %w", g.owner, err)
	}
	m := letter.Message(b.Conn().MaxPayload())
	_, err = b.JetStream().PublishMsg(ctx, m)
	if errors.Is(err, jetstream.ErrNoStreamResponse) { // the site's first dead letter, and no node has made the stream
		if err = dlq.New(b, 1, g.up.Scope).Ensure(ctx); err == nil {
			_, err = b.JetStream().PublishMsg(ctx, m)
		}
	}
	if err != nil {
		return fmt.Errorf("store dead letter of %s: %w", g.owner, err)
	}
	return nil
}
