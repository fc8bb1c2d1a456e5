package webhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
)

// testNode is a mesh node in process.
type testNode struct {
	url string
	bus *bus.Bus
}

func newNode(t testing.TB) *testNode {
	t.Helper()
	b, url := wefttest.Listening(t)
	return &testNode{url: url, bus: b}
}

func (n *testNode) connect(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(n.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// purgeTo removes everything before a sequence.
func purgeTo(seq uint64) jetstream.StreamPurgeOpt { return jetstream.WithPurgeSequence(seq) }

// gateway is a running webhook service and its API.
type gateway struct {
	t    testing.TB
	url  string
	stop func()
}

func config() webhook.Config {
	cfg := webhook.DefaultConfig()
	cfg.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cfg.Retry = []conf.Duration{ms(300), ms(400), ms(500), ms(600), ms(700), ms(800)}
	return cfg
}

func ms(n int) conf.Duration { return conf.Duration(n) * conf.Duration(time.Millisecond) }

func start(t testing.TB, b *bus.Bus, cfg webhook.Config, change ...func(*webhook.Deps)) *gateway {
	t.Helper()
	d := webhook.Deps{Scope: obs.Discard(), Source: b, Conn: b.Conn(), Site: "test", Node: "test-1"}
	d.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	for _, f := range change {
		f(&d)
	}
	s, err := webhook.New(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	api := httptest.NewServer(s.Handler())
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		api.Close()
	})
	t.Cleanup(stop)
	return &gateway{t: t, url: api.URL, stop: stop}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// call makes an API call and decodes the answer into out.
func (g *gateway) call(method, path string, in, out any) int {
	g.t.Helper()
	var body io.Reader
	switch v := in.(type) {
	case nil:
	case string:
		body = strings.NewReader(v)
	default:
		data, err := json.Marshal(in)
		if err != nil {
			g.t.Fatal(err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, g.url+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			g.t.Fatalf("%s %s answered %d %s: %v", method, path, resp.StatusCode, data, err)
		}
	}
	return resp.StatusCode
}

// hook is an endpoint as the API shows it.
type hook struct {
	ID        string         `json:"id"`
	URL       string         `json:"url"`
	Secret    string         `json:"secret"`
	PublicKey string         `json:"publicKey"`
	Disabled  bool           `json:"disabled"`
	Status    webhook.Status `json:"status"`
}

func (g *gateway) create(in map[string]any) hook {
	g.t.Helper()
	var h hook
	if status := g.call(http.MethodPost, "/v1/webhooks", in, &h); status != http.StatusCreated {
		g.t.Fatalf("create answered %d", status)
	}
	return h
}

func (g *gateway) status(id string) webhook.Status {
	g.t.Helper()
	var h hook
	g.call(http.MethodGet, "/v1/webhooks/"+id, nil, &h)
	return h.Status
}

func (g *gateway) attempts(id string) []webhook.Attempt {
	g.t.Helper()
	var out struct{ Attempts []webhook.Attempt }
	g.call(http.MethodGet, "/v1/webhooks/"+id+"/attempts?limit=500", nil, &out)
	return out.Attempts
}

// received is a request at a receiver.
type received struct {
	at     time.Time
	id     string // webhook-id
	event  event.Event
	header http.Header
	body   []byte
}

// receiver is a partner's HTTP endpoint.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []received
}

// answers handles the nth request (from 1) of a receiver.
type answers func(n int, w http.ResponseWriter, r received)

func receive(t testing.TB, answer answers) *receiver {
	t.Helper()
	rc := &receiver{}
	rc.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		re := received{at: time.Now(), id: r.Header.Get("Webhook-Id"), header: r.Header, body: body}
		if es, _, err := event.FromHTTP(r.Header, body); err == nil && len(es) == 1 {
			re.event = es[0]
		}
		rc.mu.Lock()
		rc.got = append(rc.got, re)
		n := len(rc.got)
		rc.mu.Unlock()
		if answer != nil {
			answer(n, w, re)
		}
	}))
	t.Cleanup(rc.Close)
	return rc
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// ids counts the requests per webhook-id.
func (r *receiver) ids() map[string]int {
	out := map[string]int{}
	for _, re := range r.all() {
		out[re.id]++
	}
	return out
}

// publish stores n events and returns their ids.
func publish(t testing.TB, b *bus.Bus, subject string, n int) []string {
	t.Helper()
	ps := make([]bus.Publication, n)
	ids := make([]string, n)
	for i := range ps {
		e := event.Event{DataContentType: "application/json", Data: fmt.Appendf(nil, `{"n":%d}`, i)}
		e.Fill(event.Defaults{Subject: subject, Source: "/test", Now: time.Now()})
		ps[i], ids[i] = bus.Publication{Subject: subject, Event: e}, e.ID
	}
	for _, r := range b.PublishAll(t.Context(), ps) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	return ids
}
