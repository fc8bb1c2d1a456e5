package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// maxAnswer bounds what is read of one answer.
const maxAnswer = 64 << 20

// request is one call of a node's API. A body that is no []byte is sent as JSON.
type request struct {
	method, path string
	body         any
	header       http.Header
}

func get(path string) request { return request{method: http.MethodGet, path: path} }
func post(path string, body any) request {
	return request{method: http.MethodPost, path: path, body: body}
}
func remove(path string) request { return request{method: http.MethodDelete, path: path} }

// call sends a request and decodes a JSON answer into out, unless that is nil.
func (c *cli) call(ctx context.Context, r request, out any) error {
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: the answer is no JSON: %w", r.method, r.path, err)
	}
	return nil
}

// fetch keeps the node's own JSON for -o json and decodes it for the table.
func fetch[T any](ctx context.Context, c *cli, r request) (full json.RawMessage, v T, err error) {
	if err = c.call(ctx, r, &full); err == nil {
		err = json.Unmarshal(full, &v)
	}
	return full, v, err
}

func encodeBody(body any) ([]byte, error) {
	switch b := body.(type) {
	case nil:
		return nil, nil
	case []byte:
		return b, nil
	}
	return json.Marshal(body)
}

// do sends one request; an answer that is no 2xx becomes an error that says
// what the server said.
func (c *cli) do(ctx context.Context, r request) (*http.Response, error) {
	body, err := encodeBody(r.body)
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(c.server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("--server %q: want a URL such as http://127.0.0.1:8281 (%w)", c.server, ErrUsage)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, strings.TrimSuffix(c.server, "/")+r.path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if r.header != nil {
		req.Header = r.header
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("no node answers at %s: start one with \"weft run\" or name it with --server", c.server)
		}
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(resp)
}

// refusal is an answer that is no 2xx.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// final reports that the same request can never succeed.
func (r *refusal) final() bool {
	return r.status/100 == 4 && r.status != http.StatusTooManyRequests && r.status != http.StatusRequestTimeout
}

// answerError reads a problem answer (RFC 9457).
func answerError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var p struct{ Title, Detail string }
	if json.Unmarshal(b, &p) != nil || p.Title == "" {
		return &refusal{resp.StatusCode, fmt.Sprintf("%s: %s", resp.Status, strings.TrimSpace(string(b)))}
	}
	if p.Detail != "" {
		p.Title += ": " + p.Detail
	}
	return &refusal{resp.StatusCode, p.Title}
}
