package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/obs"
)

const (
	maxError      = 1 << 10         // bytes of the app's answer kept as the error
	maxAnswer     = 64 << 10        // bytes of an answer read so that its connection is used again
	maxRetryAfter = time.Hour       // longest wait an app may ask for
	dialTimeout   = 2 * time.Second // the app is on the same host
	idleConns     = 90 * time.Second
)

// verdict is what a call to the app came to.
type verdict int

const (
	accepted  verdict = iota // 2xx
	failed                   // 5xx, 408, 429, time-out, broken connection: try again
	refused                  // other 4xx: the event is at fault
	unreached                // the app was not there: no attempt is spent
	aborted                  // the sidecar gave up: nothing is known
)

// String is the value of the metric label.
func (v verdict) String() string {
	return [...]string{"accepted", "failed", "refused", "unreached", "aborted"}[v]
}

// outcome is a verdict with its reasons.
type outcome struct {
	verdict verdict
	status  int           // 0 if there was no answer
	reason  string        // first part of the answer, or the error
	after   time.Duration // Retry-After
	took    time.Duration
}

// caller posts events to the app.
type caller struct {
	client *http.Client
	url    string
	health string // empty: there is no health path
	name   string // of the subscription
	tracer trace.Tracer
}

// newClient returns an HTTP client for one app with at most conns connections
// kept. It follows no redirect: an event is not to go elsewhere.
func newClient(conns int) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:         dialer.DialContext,
			MaxIdleConnsPerHost: conns,
			IdleConnTimeout:     idleConns,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// post makes one call with one event. ctx bounds it and holds the process span.
func (c *caller) post(ctx context.Context, e event.Stored, attempt int) outcome {
	parent := trace.SpanContextFromContext(ctx)
	ctx, span := c.tracer.Start(ctx, "POST", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		obs.KeyMethod.String(http.MethodPost), obs.KeyURL.String(c.url), obs.KeyAttempt.Int(attempt),
	))
	defer span.End()
	begun := time.Now()
	out := c.send(ctx, e, attempt, parent)
	out.took = time.Since(begun)
	if out.status != 0 {
		span.SetAttributes(obs.KeyStatusCode.Int(out.status))
	}
	if out.verdict != accepted {
		span.SetStatus(codes.Error, out.reason)
		span.SetAttributes(obs.KeyErrorType.String(out.kind()))
	}
	return out
}

// fault says in one line why the app did not do its work; empty if it did.
func (o outcome) fault() string {
	switch {
	case o.verdict == accepted || o.verdict == refused:
		return ""
	case o.status != 0:
		return strings.TrimSpace("the app answered " + strconv.Itoa(o.status) + " " + http.StatusText(o.status))
	}
	return o.reason
}

// kind is the error.type of an outcome.
func (o outcome) kind() string {
	if o.status != 0 {
		return strconv.Itoa(o.status)
	}
	return o.verdict.String()
}

func (c *caller) send(ctx context.Context, e event.Stored, attempt int, parent trace.SpanContext) outcome {
	header, body := e.HTTP()
	// The body hides that it could be read again: with an Idempotency-Key
	// net/http would repeat a request whose connection broke, unseen and
	// uncounted.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, io.NopCloser(bytes.NewReader(body)))
	if err != nil {
		return outcome{verdict: failed, reason: err.Error()}
	}
	req.ContentLength = int64(len(body))
	if len(body) == 0 {
		req.Body = http.NoBody
	}
	req.Header = http.Header(header)
	c.decorate(req.Header, e, attempt, parent)
	resp, err := c.client.Do(req)
	if err != nil {
		return c.broken(ctx, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // what could be read says enough
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer)          // only to use the connection again
	return judge(resp, text)
}

// decorate adds what the app may need beside the event.
func (c *caller) decorate(h http.Header, e event.Stored, attempt int, parent trace.SpanContext) {
	if parent.IsValid() {
		propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), parent), propagation.HeaderCarrier(h))
	}
	correlation := e.CorrelationID()
	if correlation == "" && parent.IsValid() {
		correlation = parent.TraceID().String()
		h["Ce-Correlationid"] = []string{correlation}
	}
	if correlation != "" {
		h.Set("X-Correlation-Id", correlation)
	}
	h.Set("Idempotency-Key", e.Key())
	h.Set("Weft-Attempt", strconv.Itoa(attempt))
	h.Set("Weft-Subject", e.Path)
	h.Set("Weft-Subscription", c.name)
	h.Set("User-Agent", "weft-sidecar")
}

// broken judges a call without an answer.
func (c *caller) broken(ctx context.Context, err error) outcome {
	out := outcome{verdict: failed, reason: err.Error()}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		out.reason = ue.Err.Error()
	}
	op, dialed := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		out.verdict = aborted
	case dialed && op.Op == "dial":
		out.verdict = unreached
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		out.reason = "no answer in time"
	}
	return out
}

func judge(resp *http.Response, text []byte) outcome {
	if len(text) == 0 {
		text = []byte(resp.Status)
	}
	// Spans hold UTF-8 only, whatever the app says.
	out := outcome{status: resp.StatusCode, reason: strings.ToValidUTF8(string(text[:min(len(text), maxError)]), "\uFFFD")}
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		out.verdict = accepted
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		out.verdict = failed
		out.after = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	case code >= 400 && code < 500 && code != http.StatusRequestTimeout:
		out.verdict = refused
	default:
		out.verdict = failed
	}
	return out
}

// retryAfter reads seconds or an HTTP date.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return min(time.Duration(min(n, int(maxRetryAfter/time.Second)))*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// probe asks the app's health path.
func (c *caller) probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.health, http.NoBody)
	if err != nil {
		return fmt.Errorf("probe %s: %w", c.health, err)
	}
	req.Header.Set("User-Agent", "weft-sidecar")
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("probe %s: %w", c.health, err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // only to use the connection again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("probe %s: %s", c.health, resp.Status)
	}
	return nil
}
