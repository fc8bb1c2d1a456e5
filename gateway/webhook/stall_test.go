package webhook_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/internal/wefttest"
)

// TestJournalAfterAStall: what piled up while the mesh could not store is more
// than one message holds, and is stored all the same.
func TestJournalAfterAStall(t *testing.T) {
	b := wefttest.Node(t)
	start(t, b, config()) // makes the stream
	add, run := webhook.NewJournal(b.JetStream())
	const attempts = 20_000 // some 5 MiB
	var settled atomic.Int64
	for range attempts {
		add(webhook.Attempt{Webhook: "wh_x", Event: "an-event-id", At: time.Now()}, func() { settled.Add(1) })
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); run(ctx) }()
	wefttest.Eventually(t, 10*time.Second, "all settled", func() bool { return settled.Load() == attempts })
	add(webhook.Attempt{Webhook: "wh_x"}, func() { settled.Add(1) })
	wefttest.Eventually(t, 10*time.Second, "one more", func() bool { return settled.Load() == attempts+1 })
	cancel()
	<-done
}

// slowKV fails the first renewals as a mesh does that elects a leader.
type slowKV struct {
	jetstream.KeyValue
	fail int
}

func (k *slowKV) Update(ctx context.Context, _ string, _ []byte, rev uint64) (uint64, error) {
	if k.fail > 0 {
		k.fail--
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return rev + 1, nil
}

// TestLeaseRenewedTooLate: a lease that was not valid for a moment is lost for
// good, for its holder may have stopped at that moment.
func TestLeaseRenewedTooLate(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail int
		want bool
	}{{"in time", 0, true}, {"one late", 1, false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				lost, valid := webhook.KeepLease(ctx, &slowKV{fail: tt.fail})
				ever := true
				for range 100 { // 10 s
					select {
					case <-time.After(100 * time.Millisecond):
						ever = ever && valid()
					case <-ctx.Done():
					}
				}
				select {
				case <-lost:
					if tt.want {
						t.Error("lost")
					}
				default:
					if !ever {
						t.Error("was not valid for a time and is kept")
					}
				}
			})
		})
	}
}
