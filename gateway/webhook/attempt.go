package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook/egress"
	"weft.dev/weft/gateway/webhook/lane"
	"weft.dev/weft/gateway/webhook/sign"
	"weft.dev/weft/internal/obs"
)

const (
	userAgent = "Weft"
	// keptAnswer is how much of an answer is read and, after a failure, kept.
	keptAnswer = 1 << 10
	// newTraceAfter is the age from which an attempt starts a trace of its own,
	// linked to the event's: trace stores close a trace after minutes.
	newTraceAfter = 10 * time.Minute
	// headerAbort is what a receiver answers to stop the retries of one event.
	headerAbort = "Webhook-Delivery"
)

// payload is an event on its way to one or more endpoints; its forms are
// encoded once.
type payload struct {
	event.Stored
	id         string        // webhook-id
	structured func() []byte // without trace context
	traced     func() []byte // with it
	binary     func() (map[string][]string, []byte)
}

func newPayload(e event.Stored) *payload {
	return &payload{
		Stored: e, id: messageID(e.Event),
		structured: sync.OnceValue(func() []byte { return untraced(e.Event).AppendJSON(nil) }),
		traced:     sync.OnceValue(func() []byte { return e.AppendJSON(nil) }),
		binary:     sync.OnceValues(e.HTTP),
	}
}

// untraced is the event without its trace context, which is ours and not the
// partner's.
func untraced(e event.Event) event.Event {
	if e.Extensions[event.ExtTraceparent] == "" && e.Extensions[event.ExtTracestate] == "" {
		return e
	}
	e.Extensions = maps.Clone(e.Extensions)
	delete(e.Extensions, event.ExtTraceparent)
	delete(e.Extensions, event.ExtTracestate)
	return e
}

// messageID is the webhook-id of an event, the same for all attempts, replays
// and endpoints: the event's id if that is a UUID, else "msg_" and 24 characters
// of the SHA-256 of its source and id. An id alone would not do: it is unique
// only within its source, and may hold a dot, which the signature forbids.
func messageID(e event.Event) string {
	if isUUID(e.ID) {
		return e.ID
	}
	sum := sha256.Sum256([]byte(e.Key()))
	return "msg_" + base64.RawURLEncoding.EncodeToString(sum[:18])
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c < '0' || c > '9' && c < 'A' || c > 'F' && c < 'a' || c > 'f':
			return false
		}
	}
	return true
}

// Attempt is one request to an endpoint, as logged and shown.
type Attempt struct {
	Webhook   string       `json:"webhook"`
	Event     string       `json:"event"`
	Source    string       `json:"source"`
	Subject   string       `json:"subject"`
	Seq       uint64       `json:"seq,omitempty"`
	MessageID string       `json:"messageId"`
	Attempt   int          `json:"attempt"` // from 1; 0 is a test
	At        time.Time    `json:"at"`
	Millis    float64      `json:"ms"`
	Status    int          `json:"status,omitempty"`
	Error     string       `json:"error,omitempty"`
	Answer    string       `json:"answer,omitempty"` // start of the body, after a failure
	Verdict   lane.Verdict `json:"verdict,omitempty"`
	Next      time.Time    `json:"next,omitzero"` // when it is tried again
}

// sender makes requests. Safe for concurrent use.
type sender struct {
	client  *http.Client
	tracer  trace.Tracer
	site    string
	metrics *metrics
}

// send makes one attempt. It returns what to log, and the result for the lane.
func (s *sender) send(ctx context.Context, ep *endpoint, p *payload, attempt int) (Attempt, lane.Result) {
	start := time.Now()
	a := Attempt{
		Webhook: ep.ID, Event: p.ID, Source: p.Source, Subject: p.Stored.Path, Seq: p.Seq,
		MessageID: p.id, Attempt: attempt, At: start.UTC(),
	}
	ctx, span := s.startProcess(ctx, p, attempt, start)
	defer span.End()
	ctx, cancel := context.WithTimeout(ctx, ep.Timeout.Std())
	defer cancel()
	r := s.post(ctx, ep, p, &a)
	took := time.Since(start)
	a.Millis = float64(took.Microseconds()) / 1000
	s.metrics.duration.Observe(took.Seconds())
	if !r.OK {
		span.SetStatus(codes.Error, a.Error)
	}
	return a, r
}

// post is the request itself; it fills in the outcome of a.
func (s *sender) post(ctx context.Context, ep *endpoint, p *payload, a *Attempt) lane.Result {
	ctx, span := s.startPost(ctx, ep, p, a.Attempt)
	defer span.End()
	req, err := request(ctx, ep, p, a.At)
	if err == nil {
		var resp *http.Response
		if resp, err = s.client.Do(req); err == nil {
			defer resp.Body.Close()
			r := judge(resp, a)
			span.SetAttributes(obs.KeyStatusCode.Int(resp.StatusCode))
			if !r.OK {
				span.SetStatus(codes.Error, a.Error)
				span.SetAttributes(obs.KeyErrorType.String(strconv.Itoa(resp.StatusCode)))
			}
			return r
		}
	}
	var kind string
	kind, a.Error = describe(err, ep.Timeout.Std())
	span.SetStatus(codes.Error, a.Error)
	span.SetAttributes(obs.KeyErrorType.String(kind))
	return lane.Result{}
}

// judge reads an answer: only 2xx is success; a redirect is not followed.
func judge(resp *http.Response, a *Attempt) lane.Result {
	a.Status = resp.StatusCode
	body, err := io.ReadAll(io.LimitReader(resp.Body, keptAnswer))
	if resp.StatusCode/100 == 2 {
		if err != nil { // the receiver had decided before the connection broke
			a.Error = "answer cut off"
		}
		return lane.Result{OK: true}
	}
	a.Error = "answered " + text([]byte(resp.Status))
	if resp.StatusCode/100 == 3 {
		a.Error += ", redirects are not followed"
	}
	a.Answer = text(body)
	return lane.Result{
		Gone:       resp.StatusCode == http.StatusGone,
		Abort:      resp.Header.Get(headerAbort) == "abort-message",
		RetryAfter: lane.RetryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}
}

// text makes what a stranger sent fit for logs, spans and JSON.
func text(b []byte) string {
	return string(bytes.ToValidUTF8(b[:min(len(b), keptAnswer)], []byte("\uFFFD")))
}

// request builds the signed request of one attempt.
func request(ctx context.Context, ep *endpoint, p *payload, at time.Time) (*http.Request, error) {
	var body []byte
	header := make(http.Header, 12+len(ep.Headers))
	if ep.Mode == Binary {
		var attrs map[string][]string
		attrs, body = p.binary()
		for k, v := range attrs {
			header[k] = v
		}
		if !ep.Traceparent {
			header.Del("Ce-Traceparent")
			header.Del("Ce-Tracestate")
		}
		if header.Get("Content-Type") == "" {
			header.Set("Content-Type", "application/octet-stream")
		}
	} else {
		if ep.Traceparent {
			body = p.traced()
		} else {
			body = p.structured()
		}
		header.Set("Content-Type", event.MediaJSON+"; charset=utf-8")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, ep.URL, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	req.Header = header
	for k, v := range ep.Headers {
		header.Set(k, v)
	}
	if tp := p.Traceparent(); ep.Traceparent && tp != "" {
		header.Set("Traceparent", tp)
		if ts := p.Extensions[event.ExtTracestate]; ts != "" {
			header.Set("Tracestate", ts)
		}
	}
	header.Set("User-Agent", userAgent)
	header.Set(sign.HeaderID, p.id)
	header.Set(sign.HeaderTimestamp, strconv.FormatInt(at.Unix(), 10))
	if keys := ep.keysAt(at); len(keys) > 0 {
		header.Set(sign.HeaderSignature, sign.Signature(keys, p.id, at, body))
	}
	return req, nil
}

// describe turns a transport error into a bounded kind and a short text
// without the URL, which may hold a secret.
func describe(err error, timeout time.Duration) (kind, text string) {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if de, ok := errors.AsType[*net.DNSError](err); ok {
		return "dns", "resolve " + de.Name + ": " + de.Err
	}
	switch {
	case errors.Is(err, egress.ErrRefused):
		return "refused_address", err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout", "no answer within " + timeout.String()
	case errors.Is(err, context.Canceled):
		return "cancelled", "cut off because the node stops"
	}
	return "connection", err.Error()
}

var noSpan = trace.SpanFromContext(context.Background())

// startProcess starts the CONSUMER span of one attempt, if the event is traced.
func (s *sender) startProcess(ctx context.Context, p *payload, attempt int, now time.Time) (context.Context, trace.Span) {
	if !obs.Sampled(p.Event) {
		return ctx, noSpan
	}
	name := "process " + p.Stored.Path
	attrs := append(
		obs.Messaging("nats", "process", obs.OpProcess, p.Stored.Path),
		obs.EventAttrs(p.Event, p.Stored.Path)...)
	attrs = append(attrs, obs.KeySite.String(s.site), obs.KeyAttempt.Int(attempt), obs.KeyConsumerGroup.String("webhooks"))
	if now.Sub(p.Accepted) < newTraceAfter {
		ctx, opts := obs.Consumer(ctx, p.Event, attrs...)
		return s.tracer.Start(ctx, name, opts...)
	}
	return s.tracer.Start(ctx, name, trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attrs...), trace.WithLinks(trace.Link{SpanContext: obs.Creation(p.Event)}))
}

// startPost starts the CLIENT span of the request.
func (s *sender) startPost(ctx context.Context, ep *endpoint, p *payload, attempt int) (context.Context, trace.Span) {
	if !obs.Sampled(p.Event) {
		return ctx, noSpan
	}
	attrs := append(
		obs.EventAttrs(p.Event, p.Stored.Path),
		obs.KeyMethod.String(http.MethodPost), obs.KeyURL.String(publicURL(ep.URL)), obs.KeyAttempt.Int(attempt))
	return s.tracer.Start(ctx, "POST", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))
}

// publicURL leaves out the query, where partners put tokens.
func publicURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.RawQuery, u.User, u.Fragment = "", nil, ""
	return u.String()
}
