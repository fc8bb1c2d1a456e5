package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/filter"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/internal/obs"
)

// publishTimeout bounds a pub frame; the client may send it again with the same
// event id.
const publishTimeout = 10 * time.Second

// message is any frame from a client; t says which members count. Unknown
// members are ignored.
type message struct {
	T       string          `json:"t"`
	V       int             `json:"v"`
	ID      string          `json:"id"`
	S       uint64          `json:"s"`
	P       string          `json:"p"`
	MS      float64         `json:"ms"`
	Subject string          `json:"subject"`
	Filter  json.RawMessage `json:"filter"`
	Start   json.RawMessage `json:"start"`
	OnGap   string          `json:"onGap"`
	OnSlow  string          `json:"onSlow"`
	Ack     string          `json:"ack"`
	Durable string          `json:"durable"`
	E       json.RawMessage `json:"e"`
	Caps    []string        `json:"caps"`
}

// parse reads a frame. Text that is no JSON object ends the socket; a member of
// the wrong type is only an error.
func parse(data []byte) (message, *closing, error) {
	var m message
	err := json.Unmarshal(data, &m)
	if err == nil {
		return m, nil, nil
	}
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && te.Field != "" {
		return m, nil, event.Reject(te.Field, "a "+kind(te))
	}
	return m, &closing{code: closeBad, reason: "want a text frame with one JSON object"}, nil
}

func kind(te *json.UnmarshalTypeError) string {
	switch te.Type.Kind().String() {
	case "string":
		return "string"
	case "slice":
		return "list"
	}
	return "number"
}

// hello is the first frame.
func (s *session) hello(data []byte) *closing {
	m, end, err := parse(data)
	switch {
	case end != nil:
		return end
	case m.T != "hello":
		return &closing{code: closeNoHello, reason: "want a hello frame first"}
	case err != nil || m.V != 1:
		return &closing{code: closeVersion, reason: "hello: want v 1"}
	}
	s.batch = slices.Contains(m.Caps, "evs")
	b := append(make([]byte, 0, 128), `{"t":"welcome","v":1,"sid":`...)
	b = httpd.AppendString(b, s.gw.deps.Node+"."+strconv.FormatUint(s.serial, 36))
	b = fmt.Appendf(b, `,"hb":%d,"max":{"subs":%d,"frame":%d}}`,
		int(s.gw.cfg.Heartbeat.Std().Seconds()), s.gw.cfg.MaxSubscriptions, s.gw.cfg.MaxFrame)
	return s.answer(b)
}

// answer writes a frame to the client from the reader.
func (s *session) answer(frame []byte) *closing {
	if err := s.write(frame); err != nil {
		s.broken(err)
		return s.ending.Load()
	}
	return nil
}

func (s *session) refuse(f failure) *closing { return s.answer(f.append(nil)) }

// handle acts on any frame after hello. Only what cannot be answered ends the
// socket.
func (s *session) handle(data []byte) *closing {
	m, end, err := parse(data)
	if end != nil {
		return end
	}
	if err != nil {
		return s.refuse(failureOf(m.ID, err))
	}
	switch m.T {
	case "sub":
		return s.sub(m)
	case "unsub":
		return s.unsub(m)
	case "pub":
		return s.pub(m)
	case "rx":
		s.receipt(m)
		return nil
	case "hb":
		return nil
	case "":
		return s.refuse(failureOf(m.ID, event.Reject("t", "the name of a message")))
	case "hello":
		return s.refuse(failureOf(m.ID, event.Reject("t", "hello only once")))
	}
	return s.refuse(failureOf(m.ID, event.Reject("t", "one of sub, unsub, pub, rx, hb, not "+strconv.Quote(clip(m.T)))))
}

func clip(s string) string {
	if len(s) > 32 {
		return s[:32] + "…"
	}
	return s
}

// failureOf is the err frame for err, which answers the frame with this id.
func failureOf(id string, err error) failure {
	p := httpd.ProblemOf(err)
	f := failure{id: id, msg: p.Error(), code: "internal"}
	switch p.Status {
	case http.StatusBadRequest:
		f.code = "bad_request"
	case http.StatusRequestEntityTooLarge:
		f.code = "too_large"
	case http.StatusUnsupportedMediaType:
		f.code = "unsupported"
	case http.StatusTooManyRequests:
		f.code, f.retry = "too_many", true
	case http.StatusServiceUnavailable:
		f.code, f.retry = "unavailable", true
	}
	f.after = int(p.RetryAfter.Milliseconds())
	return f
}

// request is a sub frame that has been checked.
type request struct {
	pattern string
	filter  filter.Filter
	start   start
}

func (m message) request(now time.Time) (request, error) {
	r := request{pattern: m.Subject}
	if m.ID == "" || len(m.ID) > 64 {
		return r, event.Reject("id", "an id of 1 to 64 bytes, which the answer carries")
	}
	if err := event.CheckPattern(m.Subject); err != nil {
		return r, err
	}
	var err error
	if string(m.Filter) != "null" {
		if r.filter, err = parseFilter(m.Filter); err != nil {
			return r, err
		}
	}
	r.start, err = parseStart(m.Start, now)
	return r, err
}

// unsupported names an option of the protocol that this gateway has not.
func (m message) unsupported() string {
	switch {
	case m.Ack != "" && m.Ack != "none":
		return "ack: want none"
	case m.OnSlow != "" && m.OnSlow != "park":
		return "onSlow: want park"
	case m.OnGap != "" && m.OnGap != "tell" && m.OnGap != "fail":
		return "onGap: want tell or fail"
	case m.Durable != "":
		return "durable: want none"
	}
	return ""
}

func parseFilter(data []byte) (filter.Filter, error) {
	f, err := filter.Parse(data)
	if fe, ok := errors.AsType[*filter.Error](err); ok {
		field := "filter"
		if fe.Path != "" {
			field += "." + fe.Path
		}
		return f, event.Reject(field, fe.Want)
	}
	return f, err
}

// sub begins a subscription.
func (s *session) sub(m message) *closing {
	r, err := m.request(time.Now())
	if err != nil {
		return s.refuse(failureOf(m.ID, err))
	}
	if text := m.unsupported(); text != "" {
		return s.refuse(failure{id: m.ID, code: "unsupported", msg: text})
	}
	if f := s.room(m.ID, feedKey(r.pattern, r.filter)); f != nil {
		return s.refuse(*f)
	}
	sub := &wsSub{id: m.ID}
	sub.tail, sub.notify = s.gw.tail, s.wake
	s.gw.tail.subscribe(&sub.subscription, r.pattern, r.filter)
	ctx, cancel := context.WithTimeout(s.ctx, seekTimeout)
	defer cancel()
	lost, err := sub.seek(ctx, r.start)
	if err != nil {
		s.gw.tail.unsubscribe(&sub.subscription)
		s.gw.Log.Warn("subscription not started", "serial", s.serial, "err", err)
		return s.refuse(failureOf(m.ID, err))
	}
	s.gw.metrics.resumed(r.start, lost)
	if lost != nil && m.OnGap == "fail" {
		s.gw.tail.unsubscribe(&sub.subscription)
		return s.refuse(failure{id: m.ID, code: "gone", msg: "the events after this position are not kept any more: " + lost.why})
	}
	return s.begin(sub, lost)
}

// begin answers a sub frame and lets the subscription run.
func (s *session) begin(sub *wsSub, lost *gap) *closing {
	head := s.gw.tail.headNow()
	b := append(make([]byte, 0, 160), `{"t":"subbed","id":`...)
	b = httpd.AppendString(b, sub.id)
	b = fmt.Appendf(b, `,"s":%d,"streams":{"%s":"%s@%s"},"from":"%s:%d","head":"%s:%d"}`,
		sub.feed.number, streamIndex, streamName, sub.epoch, streamIndex, sub.pos+1, streamIndex, max(head, sub.pos))
	end := s.answer(b)
	if end == nil && lost != nil {
		s.gw.metrics.gaps.WithLabelValues(lost.why).Inc()
		end = s.answer(appendGap(nil, sub.feed.number, lost))
	}
	s.mu.Lock()
	s.subs = append(s.subs, sub) // from here on run or unsub takes it off the feed
	s.mu.Unlock()
	if end == nil {
		sub.wake()
	}
	return end
}

// room refuses a subscription over the limit or to what the socket has already.
func (s *session) room(id, key string) *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.subs) >= s.gw.cfg.MaxSubscriptions {
		return &failure{id: id, code: "too_many", msg: "at most " + strconv.Itoa(s.gw.cfg.MaxSubscriptions) + " subscriptions on a socket"}
	}
	for _, sub := range s.subs {
		if sub.feed.key == key {
			return &failure{id: id, code: "bad_request", msg: "subject: subscribed already, with this filter, as s " + strconv.FormatUint(sub.feed.number, 10)}
		}
	}
	return nil
}

// unsub ends a subscription; nothing of it follows the answer.
func (s *session) unsub(m message) *closing {
	s.mu.Lock()
	i := slices.IndexFunc(s.subs, func(sub *wsSub) bool { return sub.feed.number == m.S })
	var sub *wsSub
	if i >= 0 {
		sub = s.subs[i]
		s.subs = slices.Delete(s.subs, i, i+1)
	}
	s.mu.Unlock()
	if sub == nil {
		return s.refuse(failure{id: m.ID, code: "not_found", msg: "s: want the number of a subscription of this socket"})
	}
	s.gw.tail.unsubscribe(&sub.subscription)
	s.wmu.Lock()
	sub.gone = true
	err := s.writeLocked(fmt.Appendf(nil, `{"t":"unsubd","s":%d}`, m.S))
	s.wmu.Unlock()
	if err != nil {
		s.broken(err)
		return s.ending.Load()
	}
	return nil
}

// pub publishes one event. Frames of a socket are handled in turn, so its events
// are stored in the order sent.
func (s *session) pub(m message) *closing {
	var e event.Event
	err := e.UnmarshalJSON(m.E)
	if len(m.E) == 0 {
		err = event.Reject("e", "a CloudEvents JSON object")
	}
	if err != nil {
		return s.refuse(failureOf(m.ID, err))
	}
	ctx, cancel := context.WithTimeout(s.ctx, publishTimeout)
	defer cancel()
	ack, err := s.gw.intake.Accept(ctx, httpd.Call{Subject: m.Subject}, &e)
	if err != nil {
		return s.refuse(failureOf(m.ID, err))
	}
	b := append(make([]byte, 0, 128), `{"t":"ok","id":`...)
	b = httpd.AppendString(b, m.ID)
	b = append(b, `,"p":`...)
	b = appendPosition(b, ack.Seq)
	b = append(b, `,"event":`...)
	b = httpd.AppendString(b, ack.ID)
	if ack.Duplicate {
		b = append(b, `,"duplicate":true`...)
	}
	return s.answer(append(b, '}'))
}

// receipt takes a browser's word that it has handled an event: it ends the trace
// there. A receipt for an event without a span, or one long gone, is dropped.
func (s *session) receipt(m message) {
	took := time.Duration(m.MS * float64(time.Millisecond))
	if took < 0 || took > time.Hour {
		return
	}
	s.gw.metrics.receipts.Observe(took.Seconds())
	num, ok := strings.CutPrefix(m.P, streamIndex+":")
	seq, err := strconv.ParseUint(num, 10, 64)
	if !ok || err != nil {
		return
	}
	e := s.gw.tail.at(seq)
	if e == nil || e.deliver == nil {
		return
	}
	ctx := trace.ContextWithSpan(context.Background(), e.deliver.span)
	now := time.Now()
	_, span := s.gw.Tracer.Start(ctx, "receive "+e.Path,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(now.Add(-took)),
		trace.WithAttributes(obs.Messaging("websocket", "receive", obs.OpReceive, streamName)...),
		trace.WithAttributes(obs.EventAttrs(e.Event, e.Path)...))
	span.End(trace.WithTimestamp(now))
}
