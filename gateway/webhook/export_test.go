package webhook

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// NewJournal is a journal beside an engine; its stream must exist.
func NewJournal(js jetstream.JetStream) (add func(Attempt, func()), run func(context.Context)) {
	j := newJournal(js, slog.New(slog.DiscardHandler), func(settled []func()) {
		for _, f := range settled {
			f()
		}
	})
	return j.add, func(ctx context.Context) { j.run(ctx, time.Second) }
}

// KeepLease renews a lease taken now until ctx ends. Lost is closed when it is
// lost; valid says whether its holder may begin something.
func KeepLease(ctx context.Context, kv jetstream.KeyValue) (lost <-chan struct{}, valid func() bool) {
	l := &lease{kv: kv, node: "n", lost: make(chan struct{}), renewed: time.Now(), rev: 1}
	go l.keep(ctx)
	return l.lost, func() bool { return l.valid(time.Now()) }
}
