// Package dlq is the dead-letter stream WEFT_DLQ of a site: what a bridge or a
// subscription gave up on, with the reason, until somebody replays or deletes
// it. It decides nothing about when to give up. No compatibility promise.
//
// A dead letter lies on weft.dlq.<bridge> or weft.dlq.<app>.<subscription>. Its
// body and ce- headers are the event's own, so that a reader who knows only
// CloudEvents can use it; what happened is in the Weft-Dlq- headers:
//
//	Weft-Dlq-Reason        one word: rejected, too-large, template, max-attempts, ...
//	Weft-Dlq-Error         the last error, one line of at most 1 KiB
//	Weft-Dlq-Status        HTTP status of the last answer, if there was one
//	Weft-Dlq-Attempts      how often it was tried
//	Weft-Dlq-Stream        stream, topic or queue it was read from
//	Weft-Dlq-Seq           where in it
//	Weft-Dlq-First-Failed  RFC 3339 time of the first failure
//	Weft-Dlq-Origin        site that accepted the event
//	Weft-Dlq-Subject       Weft subject of the event; absent if it had none yet
//	Weft-Dlq-Truncated     size of the data when only its beginning fits a message
//	Weft-Dlq-Dropped       names of the event's headers that do not fit a message
//
// Nats-Msg-Id is <owner>/<stream>/<seq>, so that an event that is given up twice,
// as after a crash, is kept once.
package dlq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
)

// Stream is the name of the stream of dead letters.
const Stream = "WEFT_DLQ"

// Subjects of dead letters.
const (
	prefix = "weft.dlq."
	all    = prefix + ">"
)

const (
	headerPrefix = "Weft-Dlq-"
	maxError     = 1 << 10
	headerRoom   = 6 << 10  // what the Weft-Dlq- headers and the message id take at most
	maxHeaders   = 50 << 10 // of the event; the server takes 64 KiB of headers
	dedupeWindow = 10 * time.Minute
)

// Bounds of the stream. At the limit the oldest dead letter goes; the lost ones
// show as a gap between the entries' numbers.
const (
	maxAge   = 14 * 24 * time.Hour
	maxBytes = 1 << 30
)

// Letter is an event somebody gave up on.
type Letter struct {
	Owner       string // bridge, or app.subscription
	Event       event.Event
	Subject     string // Weft subject of the event, if it had one
	Origin      string // site that accepted it, if any
	Reason      string // one word
	Error       string
	Status      int // HTTP status, 0 if none
	Attempts    int
	Stream      string // stream, topic or queue
	Position    string // where in Stream
	FirstFailed time.Time
}

// Message encodes the letter. A dead letter must fit a message whatever is in
// it: too large headers are left out and data that exceeds maxPayload loses its
// end, which the headers tell.
func (l Letter) Message(maxPayload int64) *nats.Msg {
	header, data := l.Event.NATS()
	h := nats.Header(header)
	maps.DeleteFunc(h, func(k string, _ []string) bool { // ours alone say what happened
		return strings.HasPrefix(strings.ToLower(k), strings.ToLower(headerPrefix))
	})
	size, dropped := fit(h)
	set := func(name, v string) {
		if v != "" {
			h[headerPrefix+name] = []string{v}
		}
	}
	set("Reason", l.Reason)
	set("Error", line(l.Error))
	if l.Status != 0 {
		set("Status", strconv.Itoa(l.Status))
	}
	set("Attempts", strconv.Itoa(l.Attempts))
	set("Stream", l.Stream)
	set("Seq", l.Position)
	set("Subject", l.Subject)
	set("Origin", l.Origin)
	if !l.FirstFailed.IsZero() {
		set("First-Failed", l.FirstFailed.UTC().Format(time.RFC3339Nano))
	}
	set("Dropped", line(strings.Join(dropped, " ")))
	h[nats.MsgIdHdr] = []string{l.Owner + "/" + l.Stream + "/" + l.Position}
	size += int64(len(data) + headerRoom)
	if maxPayload > 0 && size > maxPayload {
		set("Truncated", strconv.Itoa(len(data)))
		data = data[:max(0, int64(len(data))-(size-maxPayload))]
	}
	return &nats.Msg{Subject: prefix + l.Owner, Header: h, Data: data}
}

// fit leaves the largest headers out until the rest is within maxHeaders.
func fit(h nats.Header) (size int64, dropped []string) {
	sizes := make(map[string]int64, len(h))
	for k, vs := range h {
		for _, v := range vs {
			sizes[k] += int64(len(k) + len(v) + 4)
		}
		size += sizes[k]
	}
	if size <= maxHeaders {
		return size, nil
	}
	names := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[b], sizes[a]), strings.Compare(a, b))
	})
	for _, k := range names {
		if size <= maxHeaders {
			break
		}
		size -= sizes[k]
		delete(h, k)
		dropped = append(dropped, k[:min(len(k), 64)])
	}
	return size, dropped
}

// line makes a header value of an error.
func line(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(s) > maxError {
		s = strings.ToValidUTF8(s[:maxError], "")
	}
	return s
}

// Bus is what the store needs of a *bus.Bus.
type Bus interface {
	EnsureStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error)
	JetStream() jetstream.JetStream
	Publish(ctx context.Context, p bus.Publication) (bus.Ack, error)
}

// Store writes, lists and replays dead letters. It is safe for concurrent use.
type Store struct {
	obs.Scope
	bus      Bus
	replicas int

	mu     sync.Mutex // guards stream
	stream jetstream.Stream
}

// New returns the store of a site. Replicas is that of the stream EVENTS.
func New(b Bus, replicas int, s obs.Scope) *Store {
	return &Store{Scope: s, bus: b, replicas: max(replicas, 1)}
}

// Ensure makes the stream unless it exists, so that others may write to it.
func (s *Store) Ensure(ctx context.Context) error {
	_, err := s.open(ctx)
	return err
}

func (s *Store) open(ctx context.Context) (jetstream.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		return s.stream, nil
	}
	st, err := s.bus.EnsureStream(ctx, jetstream.StreamConfig{
		Name: Stream, Subjects: []string{all}, Storage: jetstream.FileStorage, Replicas: s.replicas,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxAge: maxAge, MaxBytes: maxBytes,
		Duplicates: dedupeWindow, AllowDirect: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open dead letters: %w", err)
	}
	s.stream = st
	return st, nil
}

func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = nil
}

// Put stores a dead letter and returns when it is durable.
func (s *Store) Put(ctx context.Context, l Letter) error {
	if _, err := s.open(ctx); err != nil {
		return err
	}
	js := s.bus.JetStream()
	if _, err := js.PublishMsg(ctx, l.Message(js.Conn().MaxPayload())); err != nil {
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			s.forget() // somebody deleted the stream: the next Put makes it again
		}
		return fmt.Errorf("store dead letter of %s: %w", l.Owner, err)
	}
	return nil
}

// Entry is a dead letter as it is stored.
type Entry struct {
	Seq           uint64    `json:"seq"`
	At            time.Time `json:"at"`
	Owner         string    `json:"owner"`
	Reason        string    `json:"reason"`
	Error         string    `json:"error,omitempty"`
	Status        int       `json:"status,omitempty"`
	Attempts      int       `json:"attempts"`
	Subject       string    `json:"subject,omitempty"`
	Origin        string    `json:"origin,omitempty"`
	Stream        string    `json:"stream,omitempty"`
	Position      string    `json:"position,omitempty"`
	FirstFailed   time.Time `json:"firstFailed,omitzero"`
	ID            string    `json:"id"`
	Source        string    `json:"source"`
	Type          string    `json:"type"`
	CorrelationID string    `json:"correlationId,omitempty"`
	TraceID       string    `json:"traceId,omitempty"`
	Size          int       `json:"size"`
	Truncated     int       `json:"truncated,omitempty"` // size of the data before it was cut
	Dropped       string    `json:"dropped,omitempty"`   // names of headers that were left out

	Event event.Event `json:"-"`
}

// decode reads an entry; it never fails, whatever a client put on the subject.
func decode(m *jetstream.RawStreamMsg) Entry {
	e := Entry{Seq: m.Sequence, At: m.Time, Owner: strings.TrimPrefix(m.Subject, prefix), Size: len(m.Data)}
	rest := make(map[string][]string, len(m.Header))
	for k, vs := range m.Header {
		name, ok := strings.CutPrefix(k, headerPrefix)
		if !ok || len(vs) == 0 {
			rest[k] = vs
			continue
		}
		e.set(name, vs[0])
	}
	st := event.FromNATS(event.NATSMessage{Subject: m.Subject, Header: rest, Data: m.Data, Stream: Stream, Seq: m.Sequence, StoredAt: m.Time})
	e.Event = st.Event
	e.ID, e.Source, e.Type, e.CorrelationID = st.ID, st.Source, st.Type, st.CorrelationID()
	if sc := obs.Creation(st.Event); sc.IsValid() {
		e.TraceID = sc.TraceID().String()
	}
	return e
}

func (e *Entry) set(name, v string) {
	number := func() int { n, _ := strconv.Atoi(v); return n }
	switch name {
	case "Reason":
		e.Reason = v
	case "Error":
		e.Error = v
	case "Status":
		e.Status = number()
	case "Attempts":
		e.Attempts = number()
	case "Subject":
		e.Subject = v
	case "Origin":
		e.Origin = v
	case "Stream":
		e.Stream = v
	case "Seq":
		e.Position = v
	case "Truncated":
		e.Truncated = number()
	case "Dropped":
		e.Dropped = v
	case "First-Failed":
		e.FirstFailed, _ = time.Parse(time.RFC3339Nano, v)
	}
}

// Query chooses entries, oldest first.
type Query struct {
	Owner string // exact, or with wildcards such as shipping.*; empty means everyone
	After uint64 // entries with a greater number
	Max   int    // at most; 0 means 100, the limit is 1000
}

// Limits of a Query.
const (
	defaultMax = 100
	limitMax   = 1000
)

// ErrNotFound: there is no dead letter of this number.
var ErrNotFound = errors.New("no such dead letter")

// List returns entries and the number to ask after for more, 0 at the end.
func (s *Store) List(ctx context.Context, q Query) (entries []Entry, next uint64, err error) {
	filter := all
	if q.Owner != "" {
		if err := event.CheckPattern(q.Owner); err != nil {
			return nil, 0, fmt.Errorf("list dead letters: %w", event.Reject("owner", "the name of a bridge, or app.subscription"))
		}
		filter = prefix + q.Owner
	}
	if q.Max <= 0 {
		q.Max = defaultMax
	}
	q.Max = min(q.Max, limitMax)
	st, err := s.open(ctx)
	if err != nil {
		return nil, 0, err
	}
	entries = []Entry{}
	for seq := q.After + 1; ; {
		m, err := st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return entries, 0, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("list dead letters: %w", err)
		}
		if len(entries) == q.Max {
			return entries, entries[len(entries)-1].Seq, nil
		}
		entries = append(entries, decode(m))
		seq = m.Sequence + 1
	}
}

// Show returns one entry with its event.
func (s *Store) Show(ctx context.Context, seq uint64) (Entry, error) {
	st, err := s.open(ctx)
	if err != nil {
		return Entry{}, err
	}
	m, err := st.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Entry{}, fmt.Errorf("dead letter %d: %w", seq, ErrNotFound)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	return decode(m), nil
}

// Delete removes an entry for good.
func (s *Store) Delete(ctx context.Context, seq uint64) error {
	st, err := s.open(ctx)
	if err != nil {
		return err
	}
	switch err := st.DeleteMsg(ctx, seq); {
	case errors.Is(err, jetstream.ErrMsgNotFound), errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful):
		return fmt.Errorf("dead letter %d: %w", seq, ErrNotFound)
	case err != nil:
		return fmt.Errorf("delete dead letter %d: %w", seq, err)
	}
	return nil
}
