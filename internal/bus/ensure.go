package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/run"
)

// EnsureStream makes or updates a stream of a role. It asks again until ctx
// ends, because a call just after the server's start may get no answer.
func (b *Bus) EnsureStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	return again(ctx, "make stream "+cfg.Name, func(ctx context.Context) (jetstream.Stream, error) {
		return b.js.CreateOrUpdateStream(ctx, cfg)
	})
}

// EnsureKV makes or updates a bucket of a role.
func (b *Bus) EnsureKV(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	return again(ctx, "make bucket "+cfg.Bucket, func(ctx context.Context) (jetstream.KeyValue, error) {
		return b.js.CreateOrUpdateKeyValue(ctx, cfg)
	})
}

// again repeats a JetStream API call that got no answer.
func again[T any](ctx context.Context, operation string, call func(context.Context) (T, error)) (T, error) {
	for {
		own, cancel := context.WithTimeout(ctx, apiTimeout)
		v, err := call(own)
		cancel()
		var refused *jetstream.APIError
		switch {
		case err == nil:
			return v, nil
		case ctx.Err() != nil || errors.As(err, &refused) && refused.Code < 500:
			return v, fmt.Errorf("%s: %w", operation, err)
		}
		run.Pause(ctx, 200*time.Millisecond)
	}
}
