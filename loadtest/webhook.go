package loadtest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const apiTimeout = 10 * time.Second

// WebhookConfig is the scenario "webhook": each endpoint listens to a subject of
// its own, on one receiver of this process. The node must be allowed to send to
// the address the receiver listens on (gateway.webhooks.allowNetworks).
type WebhookConfig struct {
	Load
	Endpoints int
	Listen    string // address of the receiver
	Verify    bool   // check every signature (Standard Webhooks v1)
}

// DefaultWebhook is ten endpoints for ten seconds.
func DefaultWebhook() WebhookConfig {
	return WebhookConfig{
		Load: Load{
			Duration: 10 * time.Second, Warmup: time.Second, Rate: 1000, Size: 256, Connections: 8, Grace: 30 * time.Second,
		},
		Endpoints: 10, Listen: "127.0.0.1:0", Verify: true,
	}
}

// Validate names every setting that cannot work.
func (c WebhookConfig) Validate() error {
	_, _, err := net.SplitHostPort(c.Listen)
	return errors.Join(
		c.validate(),
		check(c.Endpoints > 0 && c.Endpoints <= maxStreams, "endpoints", fmt.Sprintf("1 to %d", maxStreams)),
		check(err == nil, "listen", "an address such as 127.0.0.1:0"),
	)
}

// Webhook runs the scenario. The endpoints it made are deleted at the end, also
// when ctx ends early.
func Webhook(ctx context.Context, cfg WebhookConfig, progress io.Writer) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	run := newRun()
	streams := make([]*stream, cfg.Endpoints)
	for k := range streams {
		streams[k] = &stream{key: k, subject: fmt.Sprintf("load.webhook.%s.%d", run, k), tracked: true}
	}
	p, err := newPump(cfg.Load, run, streams)
	if err != nil {
		return Report{}, err
	}
	w := &webhooks{cfg: cfg, pump: p, sink: newSink(run, p)}
	stop, err := w.listen(ctx)
	if err != nil {
		return Report{}, err
	}
	defer stop()
	defer w.remove(context.WithoutCancel(ctx))
	if err := w.create(ctx); err != nil {
		return Report{}, err
	}
	if err := w.sink.publish(ctx, "webhook", w.receivers, progress); err != nil {
		return Report{}, err
	}
	w.remove(context.WithoutCancel(ctx))
	r := p.report("webhook", Setting{"endpoints", fmt.Sprint(cfg.Endpoints)})
	r.Delivery = w.sink.delivery(w.receivers)
	r.Delivery.BadSignatures = w.bad.Load()
	return r, nil
}

type webhooks struct {
	cfg       WebhookConfig
	pump      *pump
	sink      *sink
	addr      string
	receivers []*receiver
	hooks     []*hook
	bad       atomic.Uint64
	ready     atomic.Bool // all hooks are made
	removed   sync.Once
}

// hook is one endpoint at the node.
type hook struct {
	id     string
	secret []byte
}

// listen starts the receiver: /0, /1, … are the endpoints.
func (w *webhooks) listen(ctx context.Context) (stop func(), err error) {
	for k := range w.cfg.Endpoints {
		w.receivers = append(w.receivers, &receiver{ledger: newLedger(), keys: []int{k}})
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", w.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for deliveries: %w", err)
	}
	w.addr = l.Addr().String()
	srv := &http.Server{Handler: w, ReadHeaderTimeout: requestTimeout}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) }) // ends with Close
	return func() { _ = srv.Close(); wg.Wait() }, nil
}

// ServeHTTP receives one delivery.
func (w *webhooks) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	k, badPath := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil || badPath != nil || k < 0 || k >= len(w.receivers) || !w.ready.Load() {
		http.Error(rw, "nothing is expected here", http.StatusNotFound)
		return
	}
	if w.cfg.Verify && !verify(w.hooks[k].secret, r.Header, body) {
		w.bad.Add(1)
	}
	w.sink.take(w.receivers[k].ledger, body)
	rw.WriteHeader(http.StatusNoContent)
}

// verify checks a Standard Webhooks v1 signature: HMAC-SHA256 of
// id.timestamp.body, one of the header's list.
func verify(secret []byte, h http.Header, body []byte) bool {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(h.Get("Webhook-Id") + "." + h.Get("Webhook-Timestamp") + "."))
	mac.Write(body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for sig := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		if hmac.Equal([]byte(sig), []byte(want)) {
			return true
		}
	}
	return false
}

// create makes the endpoints at the node.
func (w *webhooks) create(ctx context.Context) error {
	for k := range w.cfg.Endpoints {
		var made struct{ ID, Secret string }
		err := w.cfg.call(ctx, apiCall{method: http.MethodPost, path: "/v1/webhooks", out: &made, in: map[string]any{
			"url":         "http://" + w.addr + "/" + strconv.Itoa(k),
			"subjects":    []string{w.pump.streams[k].subject},
			"description": "weft load, run " + w.pump.run,
		}})
		if err != nil {
			return fmt.Errorf("create webhook %d of %d: %w", k+1, w.cfg.Endpoints, err)
		}
		secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(made.Secret, "whsec_"))
		w.hooks = append(w.hooks, &hook{id: made.ID, secret: secret})
		if made.ID == "" || w.cfg.Verify && (err != nil || len(secret) == 0) {
			return fmt.Errorf("create webhook %d of %d: the answer has no id or no whsec_ secret", k+1, w.cfg.Endpoints)
		}
	}
	w.ready.Store(true)
	return nil
}

// remove deletes the endpoints; what fails is counted, so that the report tells.
func (w *webhooks) remove(ctx context.Context) {
	w.removed.Do(func() {
		for _, h := range w.hooks {
			if err := w.cfg.call(ctx, apiCall{method: http.MethodDelete, path: "/v1/webhooks/" + url.PathEscape(h.id)}); err != nil {
				w.pump.errs.add("delete webhook: " + kindOf(err))
			}
		}
	})
}

// apiCall is one JSON call of a node's API; in and out may be nil.
type apiCall struct {
	method, path string
	in, out      any
}

func (t Target) call(ctx context.Context, c apiCall) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var body io.Reader
	if c.in != nil {
		b, err := json.Marshal(c.in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, c.method, trimSlash(t.Server)+c.path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if t.Token != "" {
		req.Header.Set("Authorization", "Bearer "+t.Token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", c.method, c.path, resp.Status, problemText(answer))
	}
	if c.out == nil {
		return nil
	}
	return json.Unmarshal(answer, c.out)
}

func problemText(answer []byte) string {
	var p struct{ Title, Detail string }
	if json.Unmarshal(answer, &p) == nil && p.Title+p.Detail != "" {
		return strings.TrimPrefix(p.Title+": "+p.Detail, ": ")
	}
	return string(answer[:min(len(answer), 200)])
}
