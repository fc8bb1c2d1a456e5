package bridge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/dlq"
	"weft.dev/weft/internal/obs"
)

// maxHops is how many bridges an event may pass.
const maxHops = 8

// prepare makes items of a group's records: loop guard, destination, key, trace.
func (l *lane) prepare(group []*batch) []*item {
	var items []*item
	for _, b := range group {
		for _, rec := range b.Records {
			it := &item{Record: rec, extensions: rec.Event.Extensions}
			items, b.items = append(items, it), append(b.items, it)
			if rec.Err != nil {
				continue
			}
			if reason := l.looped(rec.Event); reason != "" {
				it.settled = true
				l.r.dropped.Add(1)
				l.r.counters.dropped.Inc()
				l.r.metrics.dropped.WithLabelValues(l.r.cfg.Name, reason).Inc()
				continue
			}
			l.begin(it)
			if it.Err = l.address(it); it.Err == nil {
				l.trace(it)
			}
		}
	}
	return items
}

// looped says why the event must not pass: it was here before, or it has passed
// too many bridges.
func (l *lane) looped(e event.Event) string {
	switch path := e.Path(); {
	case slices.Contains(path, l.r.self):
		return "loop"
	case len(path) >= maxHops:
		return "hops"
	}
	return ""
}

// address renders where the record goes and adds this bridge to its path.
func (l *lane) address(it *item) (err error) {
	if it.Dest, err = l.ends.dest.Render(it.Record); err != nil {
		return driver.Permanent("template", err)
	}
	if !l.ends.key.Empty() {
		key, err := l.ends.key.Render(it.Record)
		if err != nil {
			return driver.Permanent("template", err)
		}
		it.Key = []byte(key)
	}
	it.extensions = it.Event.Extensions // with the trace context
	ext := maps.Clone(it.Event.Extensions)
	if ext == nil {
		ext = map[string]string{}
	}
	ext[event.ExtPath] = strings.Join(append(it.Event.Path(), l.r.self), ",")
	it.Event.Extensions = ext
	return nil
}

// begin leaves the receive span of an event from outside, a child of the context
// the event was created in; an event without one starts its trace here.
func (l *lane) begin(it *item) {
	e := &it.Event
	sc := obs.Creation(*e)
	if l.ends.from.System == "nats" || (sc.IsValid() && !sc.IsSampled()) {
		return
	}
	attrs := append(obs.Messaging(l.ends.from.System, "receive", obs.OpReceive, it.Topic), obs.EventAttrs(*e, "")...)
	_, span := l.r.deps.Tracer.Start(obs.Parent(context.Background(), *e), "receive "+it.Topic,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(append(attrs, obs.KeyBridge.String(l.r.cfg.Name))...))
	if !sc.IsValid() {
		obs.Stamp(e, span.SpanContext())
	}
	span.End()
}

// trace starts the span of the write, a child of the context the event was
// created in.
func (l *lane) trace(it *item) {
	if !obs.Sampled(it.Event) {
		return
	}
	dest := it.Dest
	if dest == "" {
		dest = l.ends.to.Text
	}
	attrs := append(obs.Messaging(l.ends.to.System, "publish", obs.OpSend, dest), obs.EventAttrs(it.Event, it.Path)...)
	_, it.span = l.r.deps.Tracer.Start(obs.Parent(context.Background(), it.Event), "publish "+dest,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(append(attrs, obs.KeyBridge.String(l.r.cfg.Name))...))
}

// finish ends the span of the write.
func (it *item) finish(err error) {
	if it.span == nil {
		return
	}
	it.span.SetAttributes(obs.KeyAttempt.Int(it.attempts))
	if err != nil {
		it.span.SetStatus(codes.Error, err.Error())
	}
	it.span.End()
	it.span = nil
}

// bury makes a dead letter of an item. It tries until the letter is stored,
// because the source forgets the event after it.
func (l *lane) bury(ctx context.Context, it *item, cause error) error {
	reason, ok := driver.Reason(cause)
	if !ok {
		reason = "rejected"
	}
	e := it.Event
	e.Extensions = it.extensions
	if e.Type == "" {
		e.Type = it.Topic
	}
	if it.firstFailed.IsZero() {
		it.firstFailed = time.Now()
	}
	letter := dlq.Letter{
		Owner: l.r.cfg.Name, Event: e, Subject: it.Path, Origin: it.Origin, Reason: reason, Error: cause.Error(),
		Attempts: it.attempts, Stream: it.Topic, Position: it.Position, FirstFailed: it.firstFailed,
	}
	part := "dead letters " + l.id
	defer l.r.trouble(part, nil)
	for attempt := 1; ; attempt++ {
		err := l.r.deps.DeadLetters.Put(ctx, letter)
		if err == nil {
			break
		}
		l.r.trouble(part, fmt.Errorf("store dead letter: %w", err))
		if err := l.wait(ctx, backoff(attempt)); err != nil {
			return err
		}
	}
	it.settled = true
	it.finish(cause)
	l.r.dead.Add(1)
	l.r.counters.dead.Inc()
	l.r.metrics.dead.WithLabelValues(l.r.cfg.Name, reason).Inc()
	l.r.deps.Log.Warn("event became a dead letter", "reason", reason, "topic", it.Topic, "position", it.Position, "id", e.ID, "err", cause)
	return nil
}
