package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// A batch is stored at the latest so long after its first attempt, or when
	// it has so many bytes. The first bounds the duplicates of a crash, the
	// second stays far below the server's message limit.
	journalEvery = 20 * time.Millisecond
	journalBytes = 64 << 10
)

// journal stores attempts in batches. Each entry's settled function is called
// after its batch is stored, so that an event counts as delivered only when a
// restart can see it.
type journal struct {
	js    jetstream.JetStream
	log   *slog.Logger
	batch func(settled []func()) // runs the callbacks of a stored batch

	mu      sync.Mutex // guards all below
	open    []byte     // JSON array without its closing bracket
	waiting []func()
	wake    chan struct{} // capacity 1: something is open
	full    chan struct{} // capacity 1: open has reached journalBytes
}

func newJournal(js jetstream.JetStream, log *slog.Logger, batch func([]func())) *journal {
	return &journal{js: js, log: log, batch: batch, wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}
}

// add appends an attempt. It never blocks: what is open is bounded by what the
// lanes have in flight.
func (j *journal) add(a Attempt, settled func()) {
	data, err := json.Marshal(a)
	if err != nil {
		j.log.Error("webhook attempt not logged", "endpoint", a.Webhook, "err", err)
		data = []byte("{}") // an attempt is plain data; settle it all the same
	}
	j.mu.Lock()
	if len(j.open) == 0 {
		j.open = append(j.open, '[')
	} else {
		j.open = append(j.open, ',')
	}
	j.open = append(j.open, data...)
	j.waiting = append(j.waiting, settled)
	full := len(j.open) >= journalBytes
	j.mu.Unlock()
	signal(j.wake)
	if full {
		signal(j.full)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run stores batches until ctx ends, and then what is left for as long as
// last allows.
func (j *journal) run(ctx context.Context, last time.Duration) {
	timer := time.NewTimer(journalEvery)
	defer timer.Stop()
	for {
		select {
		case <-j.wake:
		case <-ctx.Done():
			drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), last)
			defer cancel()
			for j.flush(drain) {
			}
			return
		}
		timer.Reset(journalEvery)
		select {
		case <-timer.C:
		case <-j.full:
		case <-ctx.Done():
		}
		j.flush(ctx)
	}
}

// flush stores what is open, trying again until ctx ends. It reports whether
// it stored something.
func (j *journal) flush(ctx context.Context) bool {
	j.mu.Lock()
	data, waiting := j.open, j.waiting
	j.open, j.waiting = nil, nil
	j.mu.Unlock()
	if len(waiting) == 0 {
		return false
	}
	data = append(data, ']')
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, err := j.js.Publish(ctx, subjectAttempts, data)
		if err == nil {
			j.batch(waiting)
			return true
		}
		if ctx.Err() != nil || errors.Is(err, nats.ErrConnectionClosed) {
			j.putBack(data, waiting)
			return false
		}
		j.log.WarnContext(ctx, "webhook attempts not stored yet", "err", err)
		if !pause(ctx, wait) {
			j.putBack(data, waiting)
			return false
		}
	}
}

// putBack keeps what a context cut off for the last flush.
func (j *journal) putBack(data []byte, waiting []func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	data = data[:len(data)-1]
	if len(j.open) > 0 {
		data = append(append(data, ','), j.open[1:]...)
	}
	j.open, j.waiting = data, append(waiting, j.waiting...)
}
