// Package driver is what the bridge engine and the drivers of outside systems
// agree on: records, batches, sources, sinks, errors and templates. A driver
// talks to its client library and nothing else; order, retry, dead letters,
// mapping of subjects and keys, loop guard, traces and metrics are the engine's.
// No compatibility promise.
package driver

import (
	"context"
	"errors"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/obs"
)

// Record is one event on its way from a source to a sink.
type Record struct {
	Event    event.Event
	Path     string    // Weft subject it has on the mesh; empty for an event from outside
	Origin   string    // site that accepted it; empty for an event from outside
	Topic    string    // stream, topic or queue it was read from
	Position string    // where in Topic, unique for ever: "1042", "3/1042", a message id
	At       time.Time // when Topic took it
	// Err says why the source could make no event of it; Event then holds the
	// bytes and headers as they were. The engine makes it a dead letter.
	Err error

	// Dest is where the sink writes it (topic or Weft subject) and Key its key or
	// group, both from the templates of the sink. The engine sets them. A nil Key
	// leaves the choice to the sink.
	Dest string
	Key  []byte
}

// Size is the memory a record holds on to, nearly.
func (r *Record) Size() int {
	n := len(r.Event.Data) + 512
	for k, vs := range r.Event.Headers {
		for _, v := range vs {
			n += len(k) + len(v)
		}
	}
	return n
}

// Batch is a run of records of one lane. A lane is one order: a sink gets the
// records of a lane in the order of its source.
type Batch struct {
	// Context ends when the source has lost the lane, as in a rebalance: the
	// engine then gives the batch up. Batches of one lane share it while it lasts.
	Context context.Context
	Lane    string
	Records []*Record
	// Done is called exactly once for a batch that was taken: with nil after
	// every record is stored, dead-lettered or dropped on purpose, so that the
	// source may forget it; with an error when it must come again. After an error
	// every later batch of the lane gets one too while the lane lasts, so a source
	// may keep a single position.
	Done func(error)
}

// Emit hands a batch to the engine. It blocks while the engine is full, which is
// the back-pressure; an error means that the batch was not taken.
type Emit func(ctx context.Context, b Batch) error

// Source reads from a system. Run reads until ctx ends or reading cannot go on,
// then waits for Done of every batch the engine took. It heals by itself what a
// retry can heal and reports it; the engine runs it again after an error.
type Source interface {
	Run(ctx context.Context, emit Emit) error
	// Check connects and looks whether what it reads from exists.
	Check(ctx context.Context) error
}

// Connector is a Source that connects before it reads, so that the engine knows
// whether it can.
type Connector interface {
	Connect(ctx context.Context) error
}

// Lagger is a Source that knows how many messages wait behind it.
type Lagger interface {
	Lag(ctx context.Context) (int64, error)
}

// Sink writes to a system.
type Sink interface {
	// Open connects. It is called before the first Write and again after Close.
	Open(ctx context.Context) error
	// Write stores records that stand in order and returns when it knows the fate
	// of each: a nil slice when all are stored, else one entry per record. A sink
	// that promises order does not store a record after one of the same key
	// failed in a way that is retried. Concurrent calls are for different lanes.
	Write(ctx context.Context, recs []*Record) []error
	// Check connects and looks whether what it writes to exists.
	Check(ctx context.Context) error
	// Close frees what Open took.
	Close()
}

// Info describes one end of a bridge.
type Info struct {
	System string // OpenTelemetry's messaging.system: kafka, aws.sns, aws_sqs, nats
	Text   string // for people: "kafka orders (k1:9092)"
	// MaxBatch and MaxBytes limit one Write; 0 means no limit of its own.
	MaxBatch, MaxBytes int
}

// Deps is what a driver gets from the engine.
type Deps struct {
	obs.Scope
	Bridge string // name, unique at the site
	Site   string
	// Report tells the engine that reading fails (err) or works again (nil).
	Report func(err error)
}

// permanent is an error that a retry cannot heal.
type permanent struct {
	reason string
	err    error
}

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// Permanent marks err as final for its record, which becomes a dead letter.
// Reason is one word from a short list, for a metric: rejected, too-large, ...
func Permanent(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &permanent{reason, err}
}

// Reason says whether err is permanent, and why.
func Reason(err error) (string, bool) {
	if p, ok := errors.AsType[*permanent](err); ok {
		return p.reason, true
	}
	return "", false
}

type later struct {
	err   error
	after time.Duration
}

func (l *later) Error() string { return l.err.Error() }
func (l *later) Unwrap() error { return l.err }

// RetryAfter marks err as one the system asked to be retried no sooner than d.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &later{err, d}
}

// Delay is what RetryAfter asked for, or 0.
func Delay(err error) time.Duration {
	if l, ok := errors.AsType[*later](err); ok {
		return l.after
	}
	return 0
}

// Errors gives every record the same fate.
func Errors(n int, err error) []error {
	out := make([]error, n)
	for i := range out {
		out[i] = err
	}
	return out
}
