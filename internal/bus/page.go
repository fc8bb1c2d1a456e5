package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
)

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
	p := page{bus: b, cfg: cfg, next: cfg.After}
	if err = patiently(ctx, p.fetch); err == nil && p.end {
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

// fetch asks for what the page still lacks. The wait is that for each message: a
// page of many takes its time on a busy machine.
func (p *page) fetch(ctx context.Context, wait time.Duration) error {
	if len(p.events) == p.cfg.Max {
		return nil
	}
	// The server ends a batch at max_bytes; a page is then merely shorter.
	req, err := json.Marshal(map[string]any{
		"seq": p.next + 1, "next_by_subj": event.PatternOnMesh(p.cfg.Pattern), "batch": p.cfg.Max - len(p.events), "max_bytes": 4 << 20,
	})
	if err != nil {
		return fmt.Errorf("encode page request: %w", err)
	}
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
		own, cancel := context.WithTimeout(ctx, wait)
		m, err := sub.NextMsgWithContext(own)
		cancel()
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
	if status := directStatus(m); status != "" {
		switch status {
		case "204": // end of the batch
			p.end = m.Header.Get("Nats-Num-Pending") == "0"
			return true, nil
		case "404": // nothing at or after the start
			p.end = true
			return true, nil
		case "503":
			return true, nats.ErrNoResponders
		default:
			return true, fmt.Errorf("status %s: %s", status, m.Header.Get("Description"))
		}
	}
	raw, err := directRaw(m)
	if err != nil {
		return true, err
	}
	if raw.Seq > p.cfg.UpTo {
		p.next = p.cfg.UpTo
		return true, nil
	}
	p.add(raw)
	return false, nil
}
