package httpd

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
)

// batched is one batched body.
type batched struct {
	*exchange
	call   Call
	events []event.Event
}

// batch publishes the events of one batched body. An event that is not valid
// refuses the whole body, so that a client corrects it and sends it again; what
// the bus then cannot store is told per item.
func (in *Intake) batch(w http.ResponseWriter, r *http.Request, b batched) {
	c, events := b.call, b.events
	begun := time.Now()
	for i := range events {
		if err := in.complete(&c, &events[i], begun); err != nil {
			b.release()
			in.fail(w, r, in.refuse(inItem(i, err)))
			return
		}
	}
	ps := make([]bus.Publication, len(events))
	spans := make([]trace.Span, len(events))
	for i := range events {
		_, spans[i] = in.trace(r.Context(), &c, &events[i])
		ps[i] = bus.Publication{Subject: c.Subject, Event: events[i]}
	}
	results := in.cfg.Publisher.PublishAll(r.Context(), ps)
	failed := 0
	for i, res := range results {
		in.settle(spans[i], res.Ack, res.Err)
		if res.Err != nil {
			failed++
		}
	}
	in.metrics.seconds.Observe(time.Since(begun).Seconds())
	if failed == len(results) {
		in.fail(w, r, results[0].Err)
		return
	}
	status := http.StatusAccepted
	if failed > 0 {
		status = http.StatusMultiStatus
	}
	b.answer = appendResults(b.answer[:0], ps, results)
	if c.CorrelationID != "" {
		w.Header()["X-Correlation-Id"] = []string{c.CorrelationID}
	}
	echo(w.Header(), c.RequestID)
	reply(w, status, b.answer)
	if failed == 0 {
		b.release()
	}
}

// appendResults is the answer to a batch: an acknowledgement per event, or its
// id and problem.
func appendResults(b []byte, ps []bus.Publication, results []bus.Result) []byte {
	b = append(b, '[')
	for i, res := range results {
		if i > 0 {
			b = append(b, ',')
		}
		if res.Err == nil {
			b = appendAck(b, res.Ack)
			continue
		}
		b = append(b, `{"id":`...)
		b = AppendString(b, ps[i].Event.ID)
		b = append(b, `,"problem":`...)
		b = ProblemOf(res.Err).AppendJSON(b)
		b = append(b, '}')
	}
	return append(b, ']')
}

// inItem puts the position in the batch in front of the field's name.
func inItem(i int, err error) error {
	fe, ok := errors.AsType[*event.FieldError](err)
	if !ok {
		return err
	}
	at := *fe
	at.Field = "[" + strconv.Itoa(i) + "]." + fe.Field
	return &at
}
