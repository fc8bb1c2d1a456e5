package gateway

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/httpd"
)

// sseComment keeps proxies from closing a quiet stream.
const sseComment = 15 * time.Second

// stream is one SSE connection: a subscription and the request's own goroutine.
type stream struct {
	gw   *Server
	sub  subscription
	w    http.ResponseWriter
	rc   *http.ResponseController
	news chan struct{} // has room for one signal
	buf  []byte
}

// serveSSE is GET /v1/events.
func (s *Server) serveSSE(w http.ResponseWriter, r *http.Request) {
	req, err := sseRequest(r)
	if err != nil {
		httpd.WriteProblem(w, httpd.ProblemOf(err))
		return
	}
	if err := s.enter(); err != nil {
		httpd.WriteProblem(w, httpd.ProblemOf(err))
		return
	}
	defer s.leave()
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	st := &stream{gw: s, w: w, rc: http.NewResponseController(w), news: make(chan struct{}, 1)}
	st.sub.tail, st.sub.notify = s.tail, st.notify
	s.tail.subscribe(&st.sub, req.pattern, req.filter)
	defer s.tail.unsubscribe(&st.sub)
	ctx, cancel := context.WithTimeout(r.Context(), seekTimeout)
	lost, err := st.sub.seek(ctx, req.start)
	cancel()
	if err != nil {
		s.Log.WarnContext(r.Context(), "subscription not started", "err", err)
		httpd.WriteProblem(w, httpd.ProblemOf(err))
		return
	}
	s.metrics.resumed(req.start, lost)
	st.open()
	if lost != nil {
		st.gap(lost)
	}
	if err := st.run(r.Context()); err != nil {
		s.Log.DebugContext(r.Context(), "event stream closed", "err", err)
	}
}

// sseRequest reads the query; Last-Event-ID wins over start.
func sseRequest(r *http.Request) (request, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return request{}, event.Reject("query", "parameters subject, filter and start")
	}
	req := request{pattern: q.Get("subject")}
	if len(q["subject"]) != 1 {
		return req, event.Reject("subject", "one pattern, such as subject=orders.*")
	}
	if err := event.CheckPattern(req.pattern); err != nil {
		return req, err
	}
	if req.filter, err = parseFilter([]byte(q.Get("filter"))); err != nil {
		return req, err
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		if req.start, err = startOf("after", id, time.Now()); err != nil {
			return req, event.Reject("Last-Event-ID", "the id of an event of this stream")
		}
		return req, nil
	}
	req.start, err = parseStartText(q.Get("start"), time.Now())
	return req, err
}

// notify is called by the tail.
func (st *stream) notify() {
	select {
	case st.news <- struct{}{}:
	default:
	}
}

func (st *stream) open() {
	_ = st.rc.SetReadDeadline(time.Time{}) // the stream has no end
	h := st.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
	st.w.WriteHeader(http.StatusOK)
	st.buf = append(st.buf[:0], "retry: "...) // reconnects spread over 1 to 5 s
	st.buf = strconv.AppendInt(st.buf, 1000+rand.Int64N(4000), 10)
	st.buf = append(st.buf, "\n\n"...)
}

func (st *stream) gap(g *gap) {
	st.gw.metrics.gaps.WithLabelValues(g.why).Inc()
	st.control(appendGap(nil, st.sub.feed.number, g), g.to)
}

// control appends an `event: weft` message. A client that resumes with its id
// goes on after seq, with the events that follow the message.
func (st *stream) control(data []byte, seq uint64) {
	st.buf = append(st.buf, "event: weft\nid: "...)
	st.buf = append(st.buf, event.Cursor{Stream: streamName, Epoch: st.sub.epoch, Seq: seq}.String()...)
	st.buf = append(st.buf, "\ndata: "...)
	st.buf = append(st.buf, data...)
	st.buf = append(st.buf, "\n\n"...)
}

// run sends until the client goes or the gateway stops; then the client comes
// back by itself, with its last id.
func (st *stream) run(ctx context.Context) error {
	quiet := time.NewTicker(sseComment)
	defer quiet.Stop()
	for {
		next, err := st.sub.next(ctx, stepLimit)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			st.gw.Log.DebugContext(ctx, "history not read", "err", err)
			time.AfterFunc(retryPage, st.notify)
		}
		if err := st.send(next); err != nil {
			return err
		}
		if next.more {
			continue
		}
		select {
		case <-st.news:
		case <-quiet.C:
			st.buf = append(st.buf, ":\n\n"...)
		case <-st.gw.stop:
			return nil
		case <-httpd.Stopping(ctx):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send writes what is buffered and what a step brought.
func (st *stream) send(next step) error {
	if next.parked {
		st.gw.metrics.parks.Inc()
	}
	if next.gap != nil {
		st.gap(next.gap)
	}
	for _, e := range next.events {
		st.event(e)
	}
	if next.live {
		st.control(appendLive(nil, st.sub.feed.number, st.sub.pos), st.sub.pos)
	}
	if len(st.buf) == 0 {
		return nil
	}
	_ = st.rc.SetWriteDeadline(time.Now().Add(st.gw.cfg.WriteTimeout.Std())) // a recorder in tests has none
	_, err := st.w.Write(st.buf)
	if err == nil {
		err = st.rc.Flush()
	}
	if err != nil {
		return err
	}
	if len(next.events) > 0 {
		st.gw.metrics.sent(next.events, len(st.buf))
	}
	if cap(st.buf) > keepFrame {
		st.buf = nil
	}
	st.buf = st.buf[:0]
	return nil
}

func (st *stream) event(e *entry) {
	st.buf = append(st.buf, "id: "...)
	id := event.Cursor{Stream: streamName, Epoch: st.sub.epoch, Seq: e.Seq, Time: e.StoredAt}
	st.buf = append(st.buf, id.String()...)
	st.buf = append(st.buf, "\ndata: "...)
	st.buf = append(st.buf, e.json()...)
	st.buf = append(st.buf, "\n\n"...)
}
