package trace

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// OTLPConfig names an OTLP/HTTP receiver: a collector, Tempo, Jaeger.
type OTLPConfig struct {
	Endpoint string            // base URL (http://collector:4318) or full URL ending in /v1/traces
	Headers  map[string]string // sent with every request, for example an API key
	Client   *http.Client      // default: 10 s timeout
}

// OTLP sends spans over OTLP/HTTP in protobuf, gzipped. It is written here rather than taken from
// otlptracehttp because that package links gRPC, which the sidecar must not.
type OTLP struct {
	url     string
	headers map[string]string
	client  *http.Client
}

// NewOTLP checks the endpoint and makes the client.
func NewOTLP(cfg OTLPConfig) (*OTLP, error) {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("telemetry.otlp.endpoint: %q is not an http or https URL such as http://collector:4318", cfg.Endpoint)
	}
	if !strings.HasSuffix(u.Path, "/v1/traces") {
		u = u.JoinPath("v1", "traces")
	}
	o := &OTLP{url: u.String(), headers: cfg.Headers, client: cfg.Client}
	if o.client == nil {
		o.client = &http.Client{Timeout: uploadWindow}
	}
	return o, nil
}

// Start does nothing: connections are opened when needed.
func (o *OTLP) Start(context.Context) error { return nil }

// Stop closes idle connections.
func (o *OTLP) Stop(context.Context) error {
	o.client.CloseIdleConnections()
	return nil
}

// RefusedError tells that the receiver took the request but not all of its spans; sending again is pointless.
type RefusedError struct {
	Spans  int
	Reason string
}

// Error names how many spans were refused and why.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("receiver refused %d spans: %s", e.Spans, e.Reason)
}

const (
	uploadTries    = 4
	maxRetryPause  = 5 * time.Second
	maxAnswerBytes = 64 << 10
)

// UploadTraces posts the batch; an overloaded or unreachable receiver is asked again with growing pauses.
func (o *OTLP) UploadTraces(ctx context.Context, batch []*tracepb.ResourceSpans) error {
	body, err := encodeOTLP(batch)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		pause, err := o.post(ctx, body, countSpans(batch))
		if err == nil || pause < 0 || try == uploadTries {
			return err
		}
		// Full jitter from 250 ms on, so that all nodes do not come back at once.
		pause = min(max(pause, rand.N(250*time.Millisecond<<try)), maxRetryPause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// post sends once. pause < 0 means that a retry is pointless, else it is the receiver's wish.
func (o *OTLP) post(ctx context.Context, body []byte, spans int) (pause time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(body))
	if err != nil {
		return -1, fmt.Errorf("post spans: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "gzip")
	for name, value := range o.headers {
		req.Header.Set(name, value)
	}
	res, err := o.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("post spans: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err != nil {
		return 0, fmt.Errorf("post spans: read answer: %w", err)
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return -1, partialSuccess(answer)
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return time.Duration(seconds) * time.Second, fmt.Errorf("post spans: receiver is busy: %s", res.Status)
	default:
		return -1, &RefusedError{Spans: spans, Reason: res.Status}
	}
}

// encodeOTLP gzips an ExportTraceServiceRequest. On the wire that is the same as TracesData, whose Go type does not
// pull in gRPC.
func encodeOTLP(batch []*tracepb.ResourceSpans) ([]byte, error) {
	raw, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: batch})
	if err != nil {
		return nil, fmt.Errorf("encode spans: %w", err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(raw); err != nil {
		return nil, fmt.Errorf("compress spans: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compress spans: %w", err)
	}
	return b.Bytes(), nil
}

// partialSuccess reads ExportTraceServiceResponse{1: {1: rejected_spans, 2: error_message}}.
func partialSuccess(answer []byte) error {
	var refused RefusedError
	for _, partial := range fields(answer, 1) {
		for _, f := range fields(partial.bytes, 1) {
			refused.Spans = int(f.number)
		}
		for _, f := range fields(partial.bytes, 2) {
			refused.Reason = string(f.bytes)
		}
	}
	if refused.Spans == 0 {
		return nil
	}
	return &refused
}

type field struct {
	number uint64
	bytes  []byte
}

// fields returns every occurrence of one protobuf field; what cannot be parsed ends the list.
func fields(message []byte, want protowire.Number) (out []field) {
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return out
		}
		message = message[n:]
		var f field
		switch typ {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(message)
		default:
			n = protowire.ConsumeFieldValue(num, typ, message)
		}
		if n < 0 {
			return out
		}
		message = message[n:]
		if num == want {
			out = append(out, f)
		}
	}
	return out
}
