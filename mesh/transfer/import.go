package transfer

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/internal/wire"
)

// Staged is the prefix under which imported events are stored; the stream turns
// it into ev., which only the origin site may publish to.
const Staged = "weft.in."

// meshPrefix is the prefix of events on NATS.
const meshPrefix = "ev."

// PositionSubject is where an importer keeps its position in a peer's stream.
func PositionSubject(peer string) string { return "weft.off.link." + peer }

// Importer takes over the events of one linked site.
type Importer struct {
	Agreement
	Deps
	Wants
	// Accept tells whether events of an origin may come over this link.
	Accept func(origin string) bool
	// Shared tells whether events of an origin may come by other links, too, or by
	// another site than before; nil: none.
	Shared  func(origin string) bool
	Origins *Origins // of the node; nil without Shared
	Count   Counter

	// trusting leaves out the check that the peer sends something now and then:
	// tests show what it is for.
	trusting bool

	mu    sync.Mutex
	state ImportState // guarded by mu
	kept  time.Time   // when keep looked last; owned by Run
	stuck uint64      // event that the stream does not take; owned by Run
	tries int         // how often it was offered; owned by Run
	since time.Time   // since when; owned by Run
}

// originOf is the site that an event on NATS is of; empty: it is no event.
func originOf(subject string) string {
	if rest, ok := strings.CutPrefix(subject, meshPrefix); ok {
		if origin, _, ok := strings.Cut(rest, "."); ok {
			return origin
		}
	}
	return ""
}

// Counter counts what an importer does. Its methods may be called concurrently.
type Counter interface {
	Imported(events int)
	Known(events int) // another link had brought them
	Duplicate()       // an event was stored already
	Refused()         // an event could not be stored, and is left out
	Restarted()       // a session ended other than by the end of Run
	RolledBack()      // the peer's disk went back to an earlier state
	Epoch()           // the peer's stream was made anew
}

// ImportState is how far the importer has come.
type ImportState struct {
	Session  bool
	Epoch    string // of the peer's stream
	Filters  []string
	Position uint64        // in the peer's stream
	Pending  uint64        // wanted events behind it, as the peer said last
	Behind   time.Duration // age of the last event taken over, while more are pending
	Problem  string        // of the last session; it stands until the peer has seen an acknowledgement
}

// State returns the importer's state.
func (i *Importer) State() ImportState {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state
}

// Run imports until ctx ends.
func (i *Importer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		var err error
		if i.Active() && (i.Up == nil || i.Up()) {
			err = i.session(ctx)
			if opened := i.closed(err); opened && ctx.Err() == nil {
				i.Count.Restarted()
				i.Log.InfoContext(ctx, "link session ended", "site", i.Peer, "err", err)
			}
		}
		run.Pause(ctx, retry)
	}
	return nil
}

// closed notes the end of a session and tells whether it was open.
func (i *Importer) closed(err error) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	was := i.state.Session
	i.state.Session = false
	if err != nil {
		i.state.Problem = err.Error()
	}
	return was
}

// intake is an open session at the importer.
type intake struct {
	*Importer
	id       string
	frames   *nats.Subscription
	at       position // stored
	record   uint64   // sequence of the position's record in the own stream; 0: none
	stored   time.Time
	epoch    string        // of the peer's stream
	subjects []string      // filters of the session
	taken    []taken       // besides, under other filters
	acks     atomic.Uint64 // acknowledgements sent

	// Owned by gather once it runs.
	next  uint64   // where the next frame must begin
	part  assembly // frame that has not come whole
	bytes uint64   // of frames taken
	seen  uint64   // acknowledgements that the peer says it has
}

// session opens a session and imports until it ends.
func (i *Importer) session(ctx context.Context) error {
	in := &intake{Importer: i, id: rand.Text()}
	if err := in.recall(ctx); err != nil {
		return err
	}
	if err := in.keep(ctx); err != nil {
		return err
	}
	nc := i.Bus.Conn()
	var err error
	if in.frames, err = nc.SubscribeSync(eventsSubject(i.Here, i.Peer, in.id)); err != nil {
		return fmt.Errorf("listen for events: %w", err)
	}
	defer func() { _ = in.frames.Unsubscribe() }()
	// The window bounds what is under way; frames weigh frameCost at least.
	if err := in.frames.SetPendingLimits(-1, 2*window); err != nil {
		return fmt.Errorf("listen for events: %w", err)
	}
	answer, err := in.open(ctx)
	if err != nil {
		return err
	}
	if len(answer.Filters) == 0 {
		i.mu.Lock()
		i.state.Filters = nil
		i.mu.Unlock()
		run.Pause(ctx, silence)
		return nil
	}
	in.begin(ctx, answer)
	own, cancel := context.WithCancel(ctx)
	hauls, failed := make(chan haul), make(chan error, 1)
	var gathering sync.WaitGroup
	gathering.Go(func() { failed <- in.gather(own, hauls) })
	defer gathering.Wait()
	defer cancel()
	for {
		select {
		case h := <-hauls:
			err = in.settle(ctx, h)
		case err = <-failed:
		}
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return nil
		case !i.Active():
			i.Origins.forget()
			return errors.New("another node of the site imports now")
		}
		if err := in.keep(ctx); err != nil {
			return err
		}
	}
}

// recall reads the stored position.
func (in *intake) recall(ctx context.Context) error {
	m, found, err := in.Bus.Last(ctx, PositionSubject(in.Peer))
	if err != nil || !found {
		return err
	}
	if err := json.Unmarshal(m.Data, &in.at); err != nil {
		return fmt.Errorf("read position in site %s: %w", in.Peer, err)
	}
	in.record = m.Seq
	return nil
}

func (in *intake) shared(origin string) bool { return in.Shared != nil && in.Shared(origin) }

// keep stores the position again when half of the own stream lies behind it: a
// site that goes on accepting while its link is cut or idle would remove the
// position with its oldest events, and then take everything once more.
func (in *intake) keep(ctx context.Context) error {
	if in.record == 0 || time.Since(in.kept) < keepEvery {
		return nil
	}
	info, err := in.Bus.Info(ctx)
	if err != nil {
		return err
	}
	in.kept = time.Now()
	if info.Bytes < keepFrom {
		return nil
	}
	half := info.First + (info.Last-info.First)/2
	var steps []step
	if in.Origins != nil {
		in.Origins.mu.Lock()
		defer in.Origins.mu.Unlock()
		if err := in.Origins.recall(ctx, in.Bus); err != nil {
			return err
		}
		for origin, k := range in.Origins.known {
			if k.record <= half && len(steps) < maxSteps {
				steps = append(steps, step{origin, k.place})
			}
		}
	}
	if in.record > half && len(steps) == 0 {
		return nil
	}
	return in.commit(ctx, in.Bus.Begin(), in.at, steps)
}

func (in *intake) open(ctx context.Context) (opened, error) {
	var answer opened
	req, err := json.Marshal(opening{Session: in.id, From: in.at, Wants: in.Wants})
	if err != nil {
		return answer, fmt.Errorf("encode opening: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	raw, err := in.Ask(ctx, Question, req)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, fmt.Errorf("read answer of site %s: %w", in.Peer, err)
	}
	if answer.Problem != "" {
		return answer, fmt.Errorf("site %s: %s", in.Peer, answer.Problem)
	}
	return answer, nil
}

// begin takes over what the answer says of the start.
func (in *intake) begin(ctx context.Context, answer opened) {
	switch {
	case answer.Anew:
		in.Count.Epoch()
		in.Log.WarnContext(ctx, "stream of the linked site was made anew: its events are taken from the start", "site", in.Peer)
	case answer.Back:
		in.Count.RolledBack()
		in.Log.ErrorContext(ctx, "linked site went back to an earlier state of its disk: what it accepted since is taken, what it lost stays here",
			"site", in.Peer, "was", in.at.Seq, "now", answer.After)
	}
	in.next, in.epoch, in.subjects, in.taken = answer.After, answer.Epoch, answer.Subjects, nil
	if in.at.Epoch == answer.Epoch && len(answer.Subjects) > 0 {
		in.taken = in.at.under(answer.Subjects, answer.After, answer.Back)
	}
	in.mu.Lock()
	in.state = ImportState{Session: true, Epoch: answer.Epoch, Problem: in.state.Problem, Filters: answer.Filters, Position: answer.After}
	in.mu.Unlock()
}

// haul is what is committed at once.
type haul struct {
	events []record
	shared bool       // some are of a shared origin
	batch  *bus.Batch // holds them, all but committed; nil if shared
	bytes  int
	frames int    // complete ones
	last   frame  // of these
	taken  uint64 // bytes of the session up to here
}

// gather makes hauls of the frames that come, until ctx ends. While one is being
// committed the next one is already on its way to the server.
func (in *intake) gather(ctx context.Context, out chan<- haul) error {
	for {
		h, err := in.collect(ctx)
		if err != nil {
			return err
		}
		if len(h.events) > 0 && !h.shared {
			h.batch = in.batch(h.events)
		}
		select {
		case out <- h:
		case <-ctx.Done():
			return nil
		}
	}
}

// collect waits for a frame and takes those that have come besides.
func (in *intake) collect(ctx context.Context) (haul, error) {
	var got haul
	for more := true; more; {
		m, err := in.wait(ctx)
		if err != nil {
			return got, err
		}
		if err := in.unpack(m, &got); err != nil {
			return got, err
		}
		n, _, err := in.frames.Pending()
		more = got.frames == 0 || err == nil && n > 0 &&
			len(got.events)+frameEvents < bus.MaxAtomic && got.bytes < commitBytes
	}
	got.taken = in.bytes
	return got, nil
}

// settle commits a haul and acknowledges it.
func (in *intake) settle(ctx context.Context, h haul) error {
	var err error
	switch {
	case len(h.events) == 0:
	case h.shared:
		err = in.settleShared(ctx, h.events)
	default:
		if err = in.store(ctx, h.batch, h.events); err == nil {
			in.Count.Imported(len(h.events))
		}
	}
	if err != nil {
		return err
	}
	in.note(h.last)
	return in.acknowledge(h)
}

// settleShared commits those events that no other link has brought.
func (in *intake) settleShared(ctx context.Context, events []record) error {
	o := in.Origins
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.recall(ctx, in.Bus); err != nil {
		return err
	}
	fresh := make([]record, 0, len(events))
	for _, e := range events {
		if e.place.Seq == 0 || !in.shared(e.origin) || e.place.beyond(o.known[e.origin].place) {
			fresh = append(fresh, e)
		}
	}
	if known := len(events) - len(fresh); known > 0 {
		in.Count.Known(known)
	}
	for len(fresh) > 0 {
		n := min(len(fresh), bus.MaxAtomic-maxSteps-1)
		for n > 1 && len(in.steps(fresh[:n])) > maxSteps {
			n /= 2
		}
		if err := in.store(ctx, in.batch(fresh[:n]), fresh[:n]); err != nil {
			return err
		}
		in.Count.Imported(n)
		fresh = fresh[n:]
	}
	// What is known moves the position on, too, but not in a write of its own each time.
	to := in.behind(events)
	if to.Seq == in.at.Seq || time.Since(in.stored) < positionEvery {
		return nil
	}
	return in.commit(ctx, in.Bus.Begin(), to, nil)
}

// maxSteps bounds the shared origins of one batch.
const maxSteps = 64

// steps are how far events bring their shared origins.
func (in *intake) steps(events []record) (out []step) {
	for i := range events {
		e := &events[len(events)-1-i]
		if !in.shared(e.origin) || slices.ContainsFunc(out, func(s step) bool { return s.origin == e.origin }) {
			continue
		}
		if e.place.Seq > 0 {
			out = append(out, step{e.origin, e.place})
		}
	}
	return out
}

// batch begins a batch with events.
func (in *intake) batch(events []record) *bus.Batch {
	b := in.Bus.Begin()
	for i := range events {
		e, first := &events[i], ""
		if e.origin == in.Peer {
			first = event.HeaderOrigin + ": " + e.place.header() + "\r\n"
		}
		b.Add(wire.Message{Subject: Staged + e.Subject[len(meshPrefix):], First: first, Header: e.Header, Data: e.Data})
	}
	return b
}

// wait returns the next frame's message.
func (in *intake) wait(ctx context.Context) (*nats.Msg, error) {
	if !in.trusting {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, silence)
		defer cancel()
	}
	m, err := in.frames.NextMsgWithContext(ctx)
	for err == nil && len(m.Data) == 0 && in.trusting {
		m, err = in.frames.NextMsgWithContext(ctx)
	}
	silent, ended := errors.Is(err, context.DeadlineExceeded), err == nil && len(m.Data) == 0
	switch {
	case (silent || ended) && in.acks.Load() > 1 && in.seen == 0:
		return nil, fmt.Errorf("site %s does not see acknowledgements: its link user must be allowed to receive %s", in.Peer, Inbound(in.Peer, in.Here)+">")
	case silent:
		return nil, fmt.Errorf("no frame from site %s within %s: it is cut off, or its link user may not send %s", in.Peer, silence, Inbound(in.Here, in.Peer)+">")
	case err != nil:
		return nil, fmt.Errorf("wait for events of site %s: %w", in.Peer, err)
	case ended:
		return nil, fmt.Errorf("site %s has ended the session", in.Peer)
	}
	return m, nil
}

func (in *intake) unpack(m *nats.Msg, got *haul) error {
	whole, err := in.part.add(m.Data)
	if err == nil && whole == nil {
		in.weigh(m, got)
		return nil
	}
	var f frame
	if err == nil {
		f, err = readFrame(whole)
	}
	if err != nil {
		return fmt.Errorf("from site %s: %w", in.Peer, err)
	}
	if f.After != in.next {
		return fmt.Errorf("from site %s: a frame after %d, want after %d: one was lost", in.Peer, f.After, in.next)
	}
	if len(f.Events) > 0 {
		in.weigh(m, got)
	}
	for _, r := range f.Events {
		if r.origin = originOf(r.Subject); r.origin == "" || !in.Accept(r.origin) {
			return fmt.Errorf("from site %s: event on %s, which may not come from there", in.Peer, r.Subject)
		}
		if has(in.taken, r.Subject, r.Seq) {
			continue
		}
		if err := r.locate(in.Peer); err != nil {
			return fmt.Errorf("from site %s: event %d: %w", in.Peer, r.Seq, err)
		}
		got.shared = got.shared || in.shared(r.origin)
		got.events = append(got.events, r)
	}
	in.next = f.UpTo
	in.seen = f.Acks
	got.frames++
	got.last = f
	return nil
}

func (in *intake) weigh(m *nats.Msg, got *haul) {
	in.bytes += cost(len(m.Data))
	got.bytes += len(m.Data)
}

// store commits events and the position behind them. If one is in the stream
// already, halves are committed, until it stands alone and is left out.
func (in *intake) store(ctx context.Context, b *bus.Batch, events []record) error {
	err := in.commit(ctx, b, in.behind(events), in.steps(events))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bus.ErrIncomplete) && (len(events) > 1 || in.insists(events[0].Seq)):
		// Handled below: the server does not tell which message it refused.
	case errors.Is(err, bus.ErrUnavailable), errors.Is(err, bus.ErrConflict), ctx.Err() != nil:
		return err
	}
	if len(events) > 1 {
		for _, half := range [][]record{events[:len(events)/2], events[len(events)/2:]} {
			if err := in.store(ctx, in.batch(half), half); err != nil {
				return err
			}
		}
		return nil
	}
	if err := in.commit(ctx, in.Bus.Begin(), in.behind(events), in.steps(events)); err != nil {
		return err // it will be offered again
	}
	if errors.Is(err, bus.ErrDuplicate) {
		in.Count.Duplicate()
	} else {
		in.Count.Refused()
		in.Log.ErrorContext(ctx, "event of a linked site refused by the own stream and left out", "site", in.Peer, "subject", events[0].Subject, "err", err)
	}
	return nil
}

// insists tells whether a batch of this one event alone was incomplete again and
// again: messages get lost, but not so often. A node without space may store none.
func (in *intake) insists(seq uint64) bool {
	if in.stuck != seq {
		in.stuck, in.tries, in.since = seq, 0, time.Now()
	}
	in.tries++
	return in.tries >= insistent && time.Since(in.since) > silence && in.Active()
}

// behind is the position after events.
func (in *intake) behind(events []record) position {
	last := events[len(events)-1]
	return position{Epoch: in.epoch, Seq: last.Seq, At: last.At, Subjects: in.subjects, Taken: pass(slices.Clone(in.taken), in.subjects, last.Seq)}
}

// commit commits a batch together with the position behind its events and the
// places of shared origins. With such steps the caller holds the lock of Origins.
func (in *intake) commit(ctx context.Context, b *bus.Batch, to position, steps []step) error {
	data, err := json.Marshal(to)
	if err != nil {
		return fmt.Errorf("encode position: %w", err)
	}
	for _, s := range steps {
		m, err := in.Origins.message(s)
		if err != nil {
			return err
		}
		b.Add(m)
	}
	last, err := b.Commit(ctx, offset(PositionSubject(in.Peer), data, in.record))
	if err != nil {
		unknown := errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, bus.ErrIncomplete)
		if len(steps) > 0 && (unknown || errors.Is(err, bus.ErrConflict)) {
			in.Origins.known = nil // another place may be stored
		}
		return err
	}
	for i, s := range steps {
		in.Origins.known[s.origin] = known{s.to, last - uint64(len(steps)-i)}
	}
	in.record, in.at, in.stored = last, to, time.Now()
	return nil
}

// note makes the state visible.
func (in *intake) note(f frame) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if f.Acks > 0 {
		in.state.Problem = ""
	}
	in.state.Position, in.state.Pending, in.state.Behind = f.UpTo, f.Pending, 0
	if f.Pending > 0 {
		in.state.Behind = max(0, time.Since(time.Unix(0, in.at.At)))
	}
}

// acknowledge tells the peer how far this site has come.
func (in *intake) acknowledge(h haul) error {
	data, err := json.Marshal(ack{Bytes: h.taken, Seq: h.last.UpTo})
	if err != nil {
		return fmt.Errorf("encode acknowledgement: %w", err)
	}
	in.acks.Add(1)
	if err := in.Bus.Conn().Publish(acksSubject(in.Peer, in.Here, in.id), data); err != nil {
		return fmt.Errorf("acknowledge to site %s: %w", in.Peer, err)
	}
	return nil
}
