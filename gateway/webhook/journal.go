package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// A batch is stored at the latest so long after its first attempt, or when
	// it has so many bytes. The first bounds the duplicates of a crash; the
	// second stays far below the server's message limit, also when much has
	// piled up while nothing could be stored.
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

	wake chan struct{} // capacity 1: something waits
	full chan struct{} // capacity 1: a part has reached journalBytes

	mu    sync.Mutex // guards parts
	parts []part     // oldest first; only the last one grows
}

// part is what one message holds.
type part struct {
	data    []byte // JSON array without its closing bracket
	settled []func()
}

func newJournal(js jetstream.JetStream, log *slog.Logger, batch func([]func())) *journal {
	return &journal{js: js, log: log, batch: batch, wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}
}

// add appends an attempt. It never blocks: what waits is bounded by what the
// lanes have in flight.
func (j *journal) add(a Attempt, settled func()) {
	data, err := json.Marshal(a)
	if err != nil {
		j.log.Error("webhook attempt not logged", "endpoint", a.Webhook, "err", err)
		data = []byte("{}") // an attempt is plain data; settle it all the same
	}
	j.mu.Lock()
	if n := len(j.parts); n == 0 || len(j.parts[n-1].data) >= journalBytes {
		j.parts = append(j.parts, part{data: []byte("[")})
	}
	p := &j.parts[len(j.parts)-1]
	if len(p.settled) > 0 {
		p.data = append(p.data, ',')
	}
	p.data = append(p.data, data...)
	p.settled = append(p.settled, settled)
	full := len(p.data) >= journalBytes
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
		for j.flush(ctx) && j.behind() {
		}
	}
}

// behind reports whether a whole part waits.
func (j *journal) behind() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.parts) > 0 && len(j.parts[0].data) >= journalBytes
}

// flush stores the oldest part, trying again until ctx ends. It reports whether
// it stored something.
func (j *journal) flush(ctx context.Context) bool {
	j.mu.Lock()
	if len(j.parts) == 0 {
		j.mu.Unlock()
		return false
	}
	p := j.parts[0]
	j.parts = j.parts[1:]
	if len(j.parts) > 0 {
		signal(j.wake)
	}
	j.mu.Unlock()
	data := append(p.data, ']')
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, err := j.js.Publish(ctx, subjectAttempts, data)
		if err == nil {
			j.batch(p.settled)
			return true
		}
		if ctx.Err() == nil && !errors.Is(err, nats.ErrConnectionClosed) {
			j.log.WarnContext(ctx, "webhook attempts not stored yet", "err", err)
			if pause(ctx, wait) {
				continue
			}
		}
		j.mu.Lock() // for the last flush
		j.parts = slices.Insert(j.parts, 0, p)
		j.mu.Unlock()
		return false
	}
}
