package dlq

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
)

// Replay says which dead letters to publish again.
type Replay struct {
	Seqs    []uint64 `json:"seqs,omitempty"`    // these, or
	Owner   string   `json:"owner,omitempty"`   // all of an owner, at most 1000 in a call
	Subject string   `json:"subject,omitempty"` // instead of the event's own subject
	DryRun  bool     `json:"dryRun,omitempty"`  // only say what would happen
	Keep    bool     `json:"keep,omitempty"`    // leave the entry in place
}

// Replayed is what happened to one of them.
type Replayed struct {
	Seq     uint64 `json:"seq"`
	ID      string `json:"id,omitempty"`
	Subject string `json:"subject,omitempty"`
	Done    bool   `json:"done"`
	Error   string `json:"error,omitempty"`
}

// Replay publishes dead letters again on their subject, which every subscriber
// of it sees, and deletes each one after it is stored. The events keep their id
// and source, so receivers can tell. An entry that fails stays and does not stop
// the others.
func (s *Store) Replay(ctx context.Context, r Replay) ([]Replayed, error) {
	if r.Subject != "" {
		if err := event.CheckSubject(r.Subject); err != nil {
			return nil, err
		}
	}
	entries, err := s.chosen(ctx, r)
	if err != nil {
		return nil, err
	}
	out := make([]Replayed, len(entries))
	for i, e := range entries {
		out[i] = Replayed{Seq: e.Seq, ID: e.ID, Subject: e.Subject}
		if r.Subject != "" {
			out[i].Subject = r.Subject
		}
		if err := s.replay(ctx, e, out[i].Subject, r); err != nil {
			out[i].Error = err.Error()
			continue
		}
		out[i].Done = !r.DryRun
	}
	return out, nil
}

func (s *Store) chosen(ctx context.Context, r Replay) ([]Entry, error) {
	if (len(r.Seqs) == 0) == (r.Owner == "") {
		return nil, event.Reject("seqs", "either seqs or owner")
	}
	if r.Owner != "" {
		entries, _, err := s.List(ctx, Query{Owner: r.Owner, Max: limitMax})
		return entries, err
	}
	if len(r.Seqs) > limitMax {
		return nil, event.TooLarge("seqs", "at most "+strconv.Itoa(limitMax)+" numbers", limitMax)
	}
	entries := make([]Entry, 0, len(r.Seqs))
	for _, seq := range r.Seqs {
		e, err := s.Show(ctx, seq)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (s *Store) replay(ctx context.Context, e Entry, subject string, r Replay) (err error) {
	switch {
	case subject == "":
		return errors.New("the event has no subject yet: give one")
	case e.Truncated > 0:
		return fmt.Errorf("only %d of %d bytes of the data were kept: read it again at %s %s", e.Size, e.Truncated, e.Stream, e.Position)
	}
	if e.Dropped != "" {
		return fmt.Errorf("its headers %s were too large to keep: read it again at %s %s", e.Dropped, e.Stream, e.Position)
	}
	if err := e.Event.Validate(); err != nil {
		return err
	}
	if r.DryRun {
		return nil
	}
	ctx, span := s.span(ctx, e, subject)
	defer span.End()
	// Its own message id: the first publish must not make it a duplicate, yet a
	// second click within the window must.
	id := "r/" + strconv.FormatInt(e.At.UnixNano(), 36) + "." + strconv.FormatUint(e.Seq, 36) + "/" + e.Event.Key()
	if _, err := s.bus.Publish(ctx, bus.Publication{Subject: subject, Event: e.Event, MsgID: id}); err != nil {
		span.RecordError(err)
		return err
	}
	s.Log.InfoContext(ctx, "dead letter replayed", "owner", e.Owner, "seq", e.Seq, "subject", subject)
	if r.Keep {
		return nil
	}
	if err := s.Delete(ctx, e.Seq); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("published, but %w", err)
	}
	return nil
}

// span is a trace of its own with a link to the event's, as the conventions ask.
func (s *Store) span(ctx context.Context, e Entry, subject string) (context.Context, trace.Span) {
	attrs := append(obs.Messaging("nats", "publish", obs.OpSend, subject), obs.EventAttrs(e.Event, subject)...)
	attrs = append(attrs, attribute.Bool("weft.replay", true))
	opts := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attrs...)}
	if sc := obs.Creation(e.Event); sc.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: sc}))
	}
	return s.Tracer.Start(ctx, "publish "+subject, opts...)
}
