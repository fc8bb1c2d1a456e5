package httpd

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
)

// Limits of a publish body. JSON forms may be longer than the data they hold:
// base64 and escapes; the data itself is held to event.MaxData afterwards.
const (
	maxJSON  = 2 * event.MaxData // structured
	maxBatch = 8 * event.MaxData // batched
	keepBody = 64 << 10          // a larger buffer is not kept for the next request
)

// Shared header values: net/http only reads them.
var (
	contentJSON = []string{"application/json"}
	noSniff     = []string{"nosniff"}
)

// exchange holds the buffers of one request.
type exchange struct {
	body   []byte
	answer []byte
}

var exchanges = sync.Pool{New: func() any {
	return &exchange{body: make([]byte, 0, 4<<10), answer: make([]byte, 0, 512)}
}}

func (x *exchange) release() {
	if cap(x.body) <= keepBody && cap(x.answer) <= keepBody {
		exchanges.Put(x)
	}
}

// ServeHTTP is POST /v1/events/{subject}: 202 once the event is stored.
func (in *Intake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	c := Call{Subject: r.PathValue("subject")}
	if err := event.CheckSubject(c.Subject); err != nil {
		in.fail(w, r, in.refuse(err))
		return
	}
	mode, err := modeOf(r.Header)
	if err != nil {
		in.fail(w, r, in.refuse(err))
		return
	}
	x := exchanges.Get().(*exchange)
	if err := x.read(w, r, mode); err != nil {
		x.release()
		in.fail(w, r, in.refuse(err))
		return
	}
	c.read(r)
	events, _, err := event.FromHTTP(r.Header, x.body)
	if err == nil {
		err = in.admit(r.Context(), c.Subject, len(events))
	}
	if err != nil {
		x.release()
		in.fail(w, r, in.refuse(err))
		return
	}
	if mode == event.Batched {
		in.batch(w, r, batched{x, c, events})
		return
	}
	e := &events[0]
	ack, err := in.publish(r.Context(), c, e, begun)
	if err != nil {
		in.fail(w, r, err) // x is not reused: the bus may still hold the body
		return
	}
	x.answer = appendAck(x.answer[:0], ack)
	if id := e.CorrelationID(); id != "" {
		w.Header()["X-Correlation-Id"] = []string{id}
	}
	echo(w.Header(), c.RequestID)
	reply(w, http.StatusAccepted, x.answer)
	x.release()
}

func reply(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = contentJSON
	h["X-Content-Type-Options"] = noSniff
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone: the event is stored all the same
}

func echo(h http.Header, requestID string) {
	if requestID != "" {
		h["X-Request-Id"] = []string{requestID}
	}
}

// fail answers with err's problem. Only faults of Weft itself are logged: a
// client cannot fill the log.
func (in *Intake) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := ProblemOf(err)
	if p.Status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		in.cfg.Log.WarnContext(r.Context(), "publish refused", "subject", r.PathValue("subject"), "err", err)
	}
	if id := header(r.Header, "X-Correlation-Id"); id != "" {
		w.Header().Set("X-Correlation-Id", id)
	}
	echo(w.Header(), header(r.Header, "X-Request-Id"))
	WriteProblem(w, p)
}

func modeOf(h http.Header) (event.Mode, error) {
	if enc := header(h, "Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return 0, Problem{
			Type: "unsupported-media-type", Title: "The form of the body is not one Weft reads",
			Status: http.StatusUnsupportedMediaType, Field: "Content-Encoding", Detail: "Content-Encoding: want a body that is not encoded",
		}
	}
	return event.ModeOf(h)
}

// read takes the body into x.body, at most as much as its mode allows.
func (x *exchange) read(w http.ResponseWriter, r *http.Request, mode event.Mode) error {
	field, limit := "data", event.MaxData
	switch mode {
	case event.Structured:
		field, limit = "body", maxJSON
	case event.Batched:
		field, limit = "body", maxBatch
	}
	if r.ContentLength > int64(limit) {
		return tooLarge(field, limit)
	}
	if r.ContentLength == 0 {
		x.body = x.body[:0]
		return nil
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // a recorder in tests has no deadline
	err := x.fill(r.Body, int(r.ContentLength), limit)
	_ = rc.SetReadDeadline(time.Time{})
	switch {
	case errors.Is(err, errLonger):
		return tooLarge(field, limit)
	case err != nil:
		return event.Reject("body", "a complete body: "+err.Error())
	}
	return nil
}

var errLonger = errors.New("body is longer than its limit")

// fill reads want bytes, or up to limit when want is negative.
func (x *exchange) fill(body io.Reader, want, limit int) error {
	if want >= 0 {
		if cap(x.body) < want {
			x.body = make([]byte, want)
		}
		x.body = x.body[:want]
		_, err := io.ReadFull(body, x.body)
		return err
	}
	x.body = x.body[:0]
	for {
		if len(x.body) == cap(x.body) {
			x.body = append(x.body, 0)[:len(x.body)]
		}
		n, err := body.Read(x.body[len(x.body):cap(x.body)])
		x.body = x.body[:len(x.body)+n]
		if len(x.body) > limit {
			return errLonger
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func tooLarge(field string, limit int) error {
	return event.TooLarge(field, "at most "+strconv.Itoa(limit)+" bytes", limit)
}

// read takes the client's correlation and trace headers.
func (c *Call) read(r *http.Request) {
	c.CorrelationID = header(r.Header, "X-Correlation-Id")
	c.RequestID = header(r.Header, "X-Request-Id")
	if header(r.Header, "Traceparent") != "" {
		ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(r.Header))
		c.Parent = trace.SpanContextFromContext(ctx)
	}
}

// header is h.Get for a name in canonical form.
func header(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func appendAck(b []byte, a bus.Ack) []byte {
	b = append(b, `{"id":`...)
	b = AppendString(b, a.ID)
	b = append(b, `,"subject":`...)
	b = AppendString(b, a.Subject)
	b = append(b, `,"site":`...)
	b = AppendString(b, a.Site)
	b = append(b, `,"seq":`...)
	b = strconv.AppendUint(b, a.Seq, 10)
	b = append(b, `,"cursor":`...)
	b = AppendString(b, a.Cursor)
	b = append(b, `,"duplicate":`...)
	b = strconv.AppendBool(b, a.Duplicate)
	return append(b, '}')
}
