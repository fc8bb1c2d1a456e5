package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
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
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	s, err := b.js.Stream(ctx, Stream)
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

// PageConfig selects a page of past events.
type PageConfig struct {
	Pattern string // a Weft pattern; empty means everything
	After   uint64 // events after this sequence
	UpTo    uint64 // and up to this one; 0 means the end of the stream
	Max     int    // at most this many, 1 to 1000
}

const pageMax = 1000

// Page reads past events without a consumer. Next is the After of the page that
// follows; it is UpTo when nothing more matches, even on an empty page.
func (b *Bus) Page(ctx context.Context, cfg PageConfig) (events []event.Stored, next uint64, err error) {
	if cfg.Pattern == "" {
		cfg.Pattern = ">"
	}
	if cfg.UpTo == 0 {
		cfg.UpTo = math.MaxUint64
	}
	if cfg.Max <= 0 || cfg.Max > pageMax {
		cfg.Max = pageMax
	}
	if cfg.After >= cfg.UpTo {
		return nil, cfg.After, nil
	}
	// The server ends a batch at max_bytes; a page is then merely shorter.
	req, err := json.Marshal(map[string]any{
		"seq": cfg.After + 1, "next_by_subj": event.PatternOnMesh(cfg.Pattern), "batch": cfg.Max, "max_bytes": 4 << 20,
	})
	if err != nil {
		return nil, cfg.After, fmt.Errorf("encode page request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	p := page{bus: b, cfg: cfg, next: cfg.After}
	err = p.fetch(ctx, req)
	if err == nil && p.end {
		err = p.finish(ctx)
	}
	if err != nil {
		return nil, cfg.After, unavailable("read page", err)
	}
	return p.events, p.next, nil
}

// page gathers the answers to one Direct Get batch.
type page struct {
	bus    *Bus
	cfg    PageConfig
	events []event.Stored
	next   uint64
	end    bool // the node that answered has nothing more
}

// finish moves to the end of a page that has nothing more. Any node that keeps
// the stream may have answered, also one that is a little behind: the leader has
// the last word.
func (p *page) finish(ctx context.Context) error {
	if !p.bus.single.Load() {
		m, found, err := p.bus.get(ctx, map[string]any{"seq": p.next + 1, "next_by_subj": event.PatternOnMesh(p.cfg.Pattern)})
		if err != nil {
			return err
		}
		if found && m.Seq <= p.cfg.UpTo {
			p.add(m)
			return nil
		}
	}
	if p.cfg.UpTo != math.MaxUint64 {
		p.next = p.cfg.UpTo
	}
	return nil
}

func (p *page) add(m Raw) {
	p.events = append(p.events, event.FromNATS(event.NATSMessage{
		Subject: m.Subject, Header: m.Header, Data: m.Data,
		Site: p.bus.site, Stream: Stream, Seq: m.Seq, StoredAt: m.At,
	}))
	p.next = m.Seq
}

func (p *page) fetch(ctx context.Context, req []byte) error {
	nc := p.bus.nc
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest("$JS.API.DIRECT.GET."+Stream, inbox, req); err != nil {
		return err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		done, err := p.take(m)
		if done || err != nil {
			return err
		}
	}
}

// take handles one answer; done after the end mark or beyond UpTo.
func (p *page) take(m *nats.Msg) (done bool, err error) {
	switch status := m.Header.Get("Status"); status {
	case "":
	case "204": // end of the batch
		p.end = m.Header.Get("Nats-Num-Pending") == "0"
		return true, nil
	case "404": // nothing at or after the start
		p.end = true
		return true, nil
	default:
		return true, fmt.Errorf("status %s: %s", status, m.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return true, fmt.Errorf("answer without a sequence: %w", err)
	}
	if seq > p.cfg.UpTo {
		p.next = p.cfg.UpTo
		return true, nil
	}
	at, _ := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	p.add(Raw{Subject: m.Header.Get("Nats-Subject"), Header: m.Header, Data: m.Data, Seq: seq, At: at})
	return false, nil
}
