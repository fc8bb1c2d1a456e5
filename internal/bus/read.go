package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/run"
)

// StreamInfo is the state of the site's stream.
type StreamInfo struct {
	Epoch       string // changes when the stream is made anew; cursors carry it
	First, Last uint64
	LastAt      time.Time
	Messages    uint64
	Bytes       uint64
}

// MetaEpoch is the key of the epoch in the stream's metadata.
const MetaEpoch = "weft.epoch"

// Info reads the state of the site's stream.
func (b *Bus) Info(ctx context.Context) (StreamInfo, error) {
	var s jetstream.Stream
	err := patiently(ctx, within(func(ctx context.Context) (err error) {
		s, err = b.js.Stream(ctx, Stream)
		return err
	}))
	if err != nil {
		return StreamInfo{}, unavailable("read stream state", err)
	}
	i := s.CachedInfo()
	epoch := i.Config.Metadata[MetaEpoch]
	b.epoch.Store(&epoch)
	b.single.Store(i.Config.Replicas == 1)
	st := i.State
	return StreamInfo{Epoch: epoch, First: st.FirstSeq, Last: st.LastSeq, LastAt: st.LastTime, Messages: st.Msgs, Bytes: st.Bytes}, nil
}

// ReadConfig selects what Read delivers.
type ReadConfig struct {
	Patterns []string // Weft patterns; none means everything
	After    uint64   // deliver what comes after this sequence; math.MaxUint64: only new events
	// HeadersOnly leaves the data out.
	HeadersOnly bool
}

// readHeartbeat is how often the server tells a reader that it is there; the node
// that serves it may die, and after two missing ones another takes over.
const readHeartbeat = time.Second

// Read calls h for each event in stream order until ctx ends, which is no
// error, or h fails. It leaves no trace on the server and survives reconnects.
func (b *Bus) Read(ctx context.Context, cfg ReadConfig, h func(event.Stored) error) error {
	if cfg.After == math.MaxUint64 {
		info, err := b.Info(ctx)
		if err != nil {
			return err
		}
		cfg.After = info.Last
	}
	oc := jetstream.OrderedConsumerConfig{
		FilterSubjects: filters(cfg.Patterns),
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:    cfg.After + 1,
		HeadersOnly:    cfg.HeadersOnly,
	}
	for {
		last, err := b.readOnce(ctx, oc, h)
		if last > 0 {
			oc.OptStartSeq = last + 1
		}
		var own *handlerError
		switch {
		case errors.As(err, &own):
			return own.err
		case ctx.Err() != nil:
			return nil
		}
		b.Log.WarnContext(ctx, "stream reader restarted", "err", err)
		run.Pause(ctx, time.Second)
	}
}

// handlerError tells a handler's error from the reader's own.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }

// readOnce reads until an error and returns the last sequence handled.
func (b *Bus) readOnce(ctx context.Context, oc jetstream.OrderedConsumerConfig, h func(event.Stored) error) (last uint64, err error) {
	cons, err := b.js.OrderedConsumer(ctx, Stream, oc)
	if err != nil {
		return 0, fmt.Errorf("create reader: %w", err)
	}
	// 1,000 messages or 4 MiB ahead keep a reader busy over one round trip.
	it, err := cons.Messages(jetstream.PullMaxMessagesWithBytesLimit(1000, 4<<20), jetstream.PullHeartbeat(readHeartbeat))
	if err != nil {
		return 0, fmt.Errorf("start reader: %w", err)
	}
	defer it.Stop()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return last, fmt.Errorf("read stream: %w", err)
		}
		s, err := b.decode(m)
		if err != nil {
			return last, err
		}
		if err := h(s); err != nil {
			return last, &handlerError{err}
		}
		last = s.Seq
	}
}

func (b *Bus) decode(m jetstream.Msg) (event.Stored, error) {
	md, err := m.Metadata()
	if err != nil {
		return event.Stored{}, fmt.Errorf("read message metadata: %w", err)
	}
	return event.FromNATS(event.NATSMessage{
		Subject: m.Subject(), Header: m.Headers(), Data: m.Data(),
		Site: b.site, Stream: md.Stream, Seq: md.Sequence.Stream, StoredAt: md.Timestamp,
	}), nil
}

// filters are the NATS subjects of Weft patterns, over all origins.
func filters(patterns []string) []string {
	if len(patterns) == 0 {
		patterns = []string{">"}
	}
	out := make([]string, len(patterns))
	for i, p := range patterns {
		out[i] = event.PatternOnMesh(p)
	}
	return out
}
