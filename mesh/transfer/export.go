package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
)

// Exporter serves the sessions of one linked site. It is safe for concurrent use.
type Exporter struct {
	Agreement
	Deps
	// Filters are the NATS subjects that cross, for what the peer wants, and the
	// patterns in them. The peer's own events never cross.
	Filters func(Wants) (subjects, patterns []string)
	// Keep is the stream's retention.
	Keep Retention
	// Lost is called when events were removed before the peer took them; may be nil.
	Lost func(events uint64)

	progress progress // guarded by mu
	saved    progress // as it is stored; guarded by mu
	flight   []uint64 // sequences sent that have not arrived, ascending; guarded by mu
	kvMu     sync.Mutex
	kv       jetstream.KeyValue // guarded by kvMu
	level    int                // of the last alarm; owned by Guard

	mu      sync.Mutex
	state   ExportState        // guarded by mu
	current string             // session being served; guarded by mu
	stop    context.CancelFunc // ends it; guarded by mu
	behind  time.Time          // since when the stream ends before the peer's position; guarded by mu
	opening sync.Mutex         // held while a session is being opened
	// trusting leaves out the check that the stream still holds what the peer
	// took: tests show what it is for.
	trusting bool
	serving  sync.WaitGroup // sessions; they end with the context given to Open
}

// ExportState is how far the peer has come.
type ExportState struct {
	Session  bool      // one is open at this node
	Position uint64    // the peer has taken over what comes up to here
	Pending  uint64    // wanted events behind it
	Sent     uint64    // events, in all sessions
	At       time.Time // when the peer last acknowledged
	// Guarded: this node watches the retention, and knows what follows.
	Guarded  bool
	Headroom float64 // share of the retention left for what the peer wants: 1 all, 0 none
	Lost     uint64  // events removed before the peer took them, ever
}

// State returns what the exporter knows of the peer.
func (x *Exporter) State() ExportState {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.state
}

// Answer answers a question for a session without holding up the caller, who
// has others to answer. Questions asked while one is being answered are refused.
func (x *Exporter) Answer(ctx context.Context, m *nats.Msg) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ctx.Err() != nil {
		return // Wait counts on it that nothing begins now
	}
	x.serving.Go(func() {
		answer := busy
		if x.opening.TryLock() {
			answer = x.Open(ctx, m.Data)
			x.opening.Unlock()
		}
		if err := m.Respond(answer); err != nil {
			x.Log.WarnContext(ctx, "link question not answered", "site", x.Peer, "err", err)
		}
	})
}

// busy answers a question while another is being answered.
var busy = []byte(`{"problem":"another session is being opened"}`)

// Open answers the question for a session and serves it until ctx ends, the peer
// falls silent, or it opens another. A session that is already being served is
// asked for again when its answer was lost: the old one gives way.
func (x *Exporter) Open(ctx context.Context, data []byte) []byte {
	var req opening
	var answer opened
	err := json.Unmarshal(data, &req)
	if err == nil && !token(req.Session) {
		err = errors.New("session: want letters and digits")
	}
	if err == nil {
		answer, err = x.open(ctx, req)
	}
	if err != nil {
		x.Log.WarnContext(ctx, "link session not opened", "site", x.Peer, "err", err)
		answer.Problem = err.Error()
	}
	out, err := json.Marshal(answer)
	if err != nil {
		x.Log.ErrorContext(ctx, "link answer not encoded", "site", x.Peer, "err", err)
	}
	return out
}

func token(s string) bool {
	for _, c := range s {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func (x *Exporter) open(ctx context.Context, req opening) (opened, error) {
	info, err := x.Bus.Info(ctx)
	if err != nil {
		return opened{}, err
	}
	subjects, patterns := x.Filters(req.Wants)
	answer := opened{Epoch: info.Epoch, Filters: patterns, Subjects: subjects}
	if len(subjects) == 0 {
		return answer, nil
	}
	from, err := x.begin(ctx, req.From, info)
	if err == nil {
		from.after, err = x.widen(ctx, req.From.Subjects, subjects, from.after)
	}
	if err != nil {
		return opened{}, err
	}
	answer.After, answer.Anew, answer.Back = from.after, from.anew, from.back
	if err := x.load(ctx); err != nil {
		return opened{}, err
	}
	s := &session{Exporter: x, id: req.Session, wants: req.Wants, after: answer.After, subjects: subjects}
	if s.acks, err = x.Bus.Conn().SubscribeSync(acksSubject(x.Here, x.Peer, s.id)); err != nil {
		return opened{}, fmt.Errorf("listen for acknowledgements: %w", err)
	}
	// The sessions of one link follow each other.
	own, cancel := context.WithCancel(ctx)
	x.mu.Lock()
	defer x.mu.Unlock()
	if ctx.Err() != nil { // Wait counts on it that none begins now
		cancel()
		return opened{}, errors.Join(ctx.Err(), s.acks.Unsubscribe())
	}
	if x.stop != nil {
		x.stop()
	}
	x.stop, x.current = cancel, s.id
	known := x.resume(info.Epoch, answer.After, subjects)
	if !known && answer.After > 0 && answer.After+1 < info.First {
		x.Log.ErrorContext(ctx, "events may have been removed before a linked site took them; their number is not known",
			"site", x.Peer, "at_most", info.First-1-answer.After)
	}
	x.state.Session, x.state.Position, x.state.At = true, answer.After, time.Now()
	x.serving.Go(func() {
		defer cancel()
		err := s.run(own)
		_ = s.acks.Unsubscribe()
		x.mu.Lock()
		current := x.current == s.id
		if current {
			x.state.Session = false
		}
		x.mu.Unlock()
		if current { // nothing at all tells the importer that this is the end
			_ = x.Bus.Conn().Publish(eventsSubject(x.Peer, x.Here, s.id), nil)
		}
		if err != nil && own.Err() == nil {
			x.Log.DebugContext(ctx, "link session ended", "site", x.Peer, "err", err)
		}
	})
	return answer, nil
}

// Wait returns when all sessions have ended, after their context has.
func (x *Exporter) Wait() {
	x.mu.Lock()
	x.mu.Unlock() //nolint:staticcheck // no session begins after this
	x.serving.Wait()
}

// start is where a session starts, and why there.
type start struct {
	after      uint64
	anew, back bool
}

// errBehind: a leader just elected may not have read all of the stream yet.
var errBehind = errors.New("the stream ends before the position asked for: waiting whether more of it comes")

// begin finds where a session starts. A stream of another epoch is new. A
// message at the peer's position that is not the one the peer took, or a
// position that stays behind the stream's end, means that the disk went back:
// what it holds from before that time the peer has, and what was stored later is
// new to it.
func (x *Exporter) begin(ctx context.Context, from position, info bus.StreamInfo) (start, error) {
	behind := from.Epoch == info.Epoch && from.Seq > info.Last
	waited := x.behindFor(behind)
	switch {
	case from.Epoch == "":
		return start{}, nil
	case from.Epoch != info.Epoch:
		return start{anew: true}, nil
	case from.Seq == 0 || x.trusting:
		return start{after: from.Seq}, nil
	case behind && waited < backGrace:
		return start{}, errBehind
	}
	at := time.Unix(0, from.At)
	var found bool
	if !behind {
		m, ok, err := x.Bus.At(ctx, from.Seq)
		if err != nil {
			return start{}, err
		}
		if ok && m.At.Equal(at) {
			return start{after: from.Seq}, nil
		}
		found = ok
	}
	last, err := x.before(ctx, at.Add(1))
	if err != nil {
		return start{}, err
	}
	// A message that was removed cannot be compared, but those before it can.
	if !behind && !found && last >= from.Seq {
		return start{after: from.Seq}, nil
	}
	return start{after: last, back: true}, nil
}

// widen moves the start back to the first message that only the wider of two
// sets of filters lets pass.
func (x *Exporter) widen(ctx context.Context, was, now []string, after uint64) (uint64, error) {
	if len(was) == 0 || after == 0 {
		return after, nil // nothing is known of what the position stands for, or all comes anyway
	}
	for _, subject := range beyond(was, now) {
		first, found, err := x.Bus.First(ctx, subject)
		if err != nil {
			return 0, err
		}
		if found {
			after = min(after, first.Seq-1)
		}
	}
	return after, nil
}

// behindFor tells how long the stream has ended before the peer's position.
func (x *Exporter) behindFor(now bool) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case !now:
		x.behind = time.Time{}
	case x.behind.IsZero():
		x.behind = time.Now()
	default:
		return time.Since(x.behind)
	}
	return 0
}

// before is the sequence of the last message stored before t.
func (x *Exporter) before(ctx context.Context, t time.Time) (uint64, error) {
	js := x.Bus.JetStream()
	c, err := js.CreateConsumer(ctx, bus.Stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &t,
		AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute, MemoryStorage: true, Replicas: 1, HeadersOnly: true,
	})
	if err != nil {
		return 0, fmt.Errorf("find the first message after %s: %w", t.Format(time.RFC3339Nano), err)
	}
	info := c.CachedInfo()
	// The consumer has delivered nothing: its position is just before its start.
	if err := js.DeleteConsumer(ctx, bus.Stream, info.Name); err != nil {
		x.Log.DebugContext(ctx, "consumer not removed", "err", err)
	}
	return info.Delivered.Stream, nil
}

// session sends what comes after a position to the peer.
type session struct {
	*Exporter
	id       string
	wants    Wants
	after    uint64 // all up to here is sent
	subjects []string
	acks     *nats.Subscription

	sent, taken uint64 // bytes of frames, sent and acknowledged
	acked       uint64 // acknowledgements received
	pending     uint64 // wanted events not sent yet
	heard       time.Time
	buf         []byte // events of the frame in the making
	lines       []byte // headers of the last one
	count       int
	seqs        []uint64 // theirs
	upTo        uint64
}

func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	msgs := make(chan jetstream.Msg, frameEvents)
	failed := make(chan error, 1)
	var reading sync.WaitGroup
	reading.Go(func() { failed <- s.read(ctx, msgs) })
	acks := make(chan ack, 64)
	reading.Go(func() { s.listen(ctx, acks) })
	defer reading.Wait()
	defer cancel()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	s.heard, s.upTo = time.Now(), s.after
	for {
		in := msgs
		if s.sent-s.taken >= window {
			in = nil
		}
		select {
		case m := <-in:
			if err := s.add(m); err != nil {
				return err
			}
			if err := s.fill(msgs); err != nil {
				return err
			}
			if s.count == 0 {
				continue // a sign of life will tell
			}
		case a := <-acks:
			s.take(a)
			continue
		case <-tick.C:
			if time.Since(s.heard) > silence {
				return errors.New("the importer is silent")
			}
			if now, _ := s.Filters(s.wants); !slices.Equal(now, s.subjects) {
				return errors.New("the filters have changed")
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
		if err := s.send(); err != nil {
			return err
		}
	}
}

// fill adds what is there already, up to a frame's bounds.
func (s *session) fill(msgs <-chan jetstream.Msg) error {
	for s.count < frameEvents && len(s.buf) < frameBytes {
		select {
		case m := <-msgs:
			if err := s.add(m); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

func (s *session) add(m jetstream.Msg) error {
	md, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read message metadata: %w", err)
	}
	s.upTo, s.pending = md.Sequence.Stream, md.NumPending
	if originOf(m.Subject()) == s.Peer {
		return nil
	}
	s.buf = appendRecord(s.buf, record{
		Seq: md.Sequence.Stream, At: md.Timestamp.UnixNano(),
		Subject: m.Subject(), Header: s.header(m, md), Data: m.Data(),
	})
	s.count++
	s.seqs = append(s.seqs, md.Sequence.Stream)
	return nil
}

// header writes the headers of a message. One that may have no valid id, as
// native clients publish them, is named by its place in the first stream that
// had it. The place of an event of this site is what the stream says, whatever
// the message may.
func (s *session) header(m jetstream.Msg, md *jetstream.MsgMetadata) []byte {
	h, but := m.Headers(), ""
	if originOf(m.Subject()) == s.Here {
		but = event.HeaderOrigin
	}
	b := appendHeader(s.lines[:0], h, but)
	if id := h["ce-id"]; h[event.HeaderPosition] == nil && (h[event.HeaderAccepted] == nil || len(id) == 0 || id[0] == "") {
		b = appendHeader(b, map[string][]string{event.HeaderPosition: {event.PositionID(h, md.Stream, md.Sequence.Stream)}}, "")
	}
	s.lines = b
	return b
}

// send sends the frame in the making, or a sign of life.
func (s *session) send() error {
	f := frame{After: s.after, UpTo: s.upTo, Pending: s.pending, Acks: s.acked}
	b := append(f.appendHead(make([]byte, 0, len(s.buf)+64), s.count), s.buf...)
	nc := s.Bus.Conn()
	for _, m := range pieces(b, int(nc.MaxPayload())) {
		if err := nc.Publish(eventsSubject(s.Peer, s.Here, s.id), m); err != nil {
			return fmt.Errorf("send to site %s: %w", s.Peer, err)
		}
		if s.count > 0 {
			s.sent += cost(len(m))
		}
	}
	s.mu.Lock()
	s.state.Sent += uint64(s.count)
	if s.current == s.id && s.count > 0 {
		s.dispatched(s.seqs)
	}
	s.mu.Unlock()
	s.after, s.count, s.buf = s.upTo, 0, s.buf[:0]
	s.seqs = s.seqs[:0]
	return nil
}

func cost(bytes int) uint64 { return uint64(max(bytes, frameCost)) }

func (s *session) take(a ack) {
	s.heard = time.Now()
	s.acked++
	s.taken = max(s.taken, min(a.Bytes, s.sent))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != s.id {
		return // another session has taken over
	}
	s.arrived(min(a.Seq, s.after))
	s.state.Position = max(s.state.Position, min(a.Seq, s.after))
	s.state.At = s.heard
	s.state.Pending = s.pending
}

// listen decodes acknowledgements until ctx ends.
func (s *session) listen(ctx context.Context, out chan<- ack) {
	for {
		m, err := s.acks.NextMsgWithContext(ctx)
		if err != nil {
			return
		}
		var a ack
		if json.Unmarshal(m.Data, &a) != nil {
			continue
		}
		select {
		case out <- a:
		case <-ctx.Done():
			return
		}
	}
}

// read passes on the wanted messages after the session's start, until ctx ends.
func (s *session) read(ctx context.Context, out chan<- jetstream.Msg) error {
	cons, err := s.Bus.JetStream().OrderedConsumer(ctx, bus.Stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: s.subjects,
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:    s.after + 1,
	})
	if err != nil {
		return fmt.Errorf("read for site %s: %w", s.Peer, err)
	}
	it, err := cons.Messages(jetstream.PullMaxMessagesWithBytesLimit(2000, 8<<20), jetstream.PullHeartbeat(beat))
	if err != nil {
		return fmt.Errorf("read for site %s: %w", s.Peer, err)
	}
	defer it.Stop()
	defer context.AfterFunc(ctx, it.Stop)() // while the stream has no leader Next does not look at its context
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read for site %s: %w", s.Peer, err)
		}
		select {
		case out <- m:
		case <-ctx.Done():
			return nil
		}
	}
}
