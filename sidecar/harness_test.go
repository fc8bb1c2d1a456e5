package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
	"weft.dev/weft/sidecar"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// soon waits until ok holds.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 30s: %s", what)
		case <-tick.C:
		}
	}
}

// site is a mesh node that can be stopped and started again on its port.
type site struct {
	t    *testing.T
	deps mesh.Deps
	addr string
	bus  *bus.Bus
	stop func()
}

func newSite(t *testing.T) *site {
	t.Helper()
	l := listen(t, 0)
	s := &site{t: t, deps: wefttest.Deps(t, "test"), addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *site) start() {
	s.t.Helper()
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = s.addr
	s.deps.Metrics = prometheus.NewRegistry()
	n, stop := wefttest.StartStop(s.t, cfg, s.deps)
	s.bus, s.stop = n.Bus(), sync.OnceFunc(stop)
}

func (s *site) url() string { return "nats://" + s.addr }

// publish stores an event as another service would.
func (s *site) publish(subject, id string, change ...func(*event.Event)) {
	s.t.Helper()
	e := event.Event{ID: id, Source: "/test", Data: []byte(id)}
	for _, f := range change {
		f(&e)
	}
	e.Fill(event.Defaults{Subject: subject, Source: "/test", Now: time.Now()})
	if _, err := s.bus.Publish(s.t.Context(), bus.Publication{Subject: subject, Event: e}); err != nil {
		s.t.Fatalf("publish %s: %v", id, err)
	}
}

// stored returns all events on a pattern.
func (s *site) stored(pattern string) []event.Stored {
	s.t.Helper()
	got, _, err := s.bus.Page(s.t.Context(), bus.PageConfig{Pattern: pattern, Max: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// dead returns the headers of all dead letters.
func (s *site) dead() []nats.Header {
	s.t.Helper()
	st, err := s.bus.JetStream().Stream(s.t.Context(), "WEFT_DLQ")
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	info, err := st.Info(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var all []nats.Header
	for seq := range info.State.LastSeq {
		m, err := st.GetMsg(s.t.Context(), seq+1)
		if err != nil {
			s.t.Fatal(err)
		}
		m.Header.Set("test-subject", m.Subject)
		m.Header.Set("test-data", string(m.Data))
		all = append(all, m.Header)
	}
	return all
}

// pending is what a consumer has not settled yet; -1 before it began.
func (s *site) pending(durable string) int {
	s.t.Helper()
	c, err := s.bus.JetStream().Consumer(s.t.Context(), bus.Stream, durable)
	if err != nil {
		return -1
	}
	i := c.CachedInfo()
	if i.Delivered.Consumer == 0 {
		return -1
	}
	return i.NumAckPending + int(i.NumPending)
}

// running is a sidecar under test.
type running struct {
	api, admin string
	stop       func() // drains and waits
	cancel     context.CancelFunc
	done       chan error
}

func start(t *testing.T, text string) *running {
	t.Helper()
	cfg, err := sidecar.LoadConfig([]byte(text), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	level := slog.LevelError + 1
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	deps := sidecar.Deps{
		Log:     slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})),
		Metrics: prometheus.NewRegistry(), API: listen(t, 0), Admin: listen(t, 0),
	}
	p, err := sidecar.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{
		api: "http://" + deps.API.Addr().String(), admin: "http://" + deps.Admin.Addr().String(),
		cancel: cancel, done: make(chan error, 1),
	}
	go func() { r.done <- p.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-r.done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	<-p.Ready()
	return r
}

func listen(t *testing.T, port int) net.Listener {
	t.Helper()
	var l net.Listener
	soon(t, fmt.Sprintf("port %d free", port), func() bool {
		var err error
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err == nil
	})
	return l
}

// call is one request that reached the app.
type call struct {
	id, path string
	header   http.Header
	body     string
}

// app is a service behind a sidecar. Its answer may be changed at any time.
type app struct {
	t    *testing.T
	port int

	mu     sync.Mutex // guards what follows
	calls  []call
	answer func(w http.ResponseWriter, c call)
	srv    *http.Server
}

func newApp(t *testing.T) *app {
	t.Helper()
	a := &app{t: t}
	a.start()
	t.Cleanup(a.kill)
	return a
}

func (a *app) start() {
	a.t.Helper()
	l := listen(a.t, a.port)
	a.port = l.Addr().(*net.TCPAddr).Port
	srv := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	a.mu.Lock()
	a.srv = srv
	a.mu.Unlock()
	go func() { _ = srv.Serve(l) }() // ends with kill
}

// kill cuts all connections and frees the port.
func (a *app) kill() {
	a.mu.Lock()
	srv := a.srv
	a.mu.Unlock()
	_ = srv.Close()
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c := call{id: r.Header.Get("Ce-Id"), path: r.URL.Path, header: r.Header, body: string(body)}
	a.mu.Lock()
	a.calls = append(a.calls, c)
	answer := a.answer
	a.mu.Unlock()
	if answer != nil {
		answer(w, c)
	}
}

func (a *app) answers(f func(w http.ResponseWriter, c call)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

func (a *app) status(code int) {
	a.answers(func(w http.ResponseWriter, _ call) {
		w.WriteHeader(code)
		fmt.Fprintf(w, "status %d", code)
	})
}

func (a *app) seen() []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]call(nil), a.calls...)
}

func (a *app) ids() []string {
	var ids []string
	for _, c := range a.seen() {
		ids = append(ids, c.id)
	}
	return ids
}

// config is a configuration with one subscription "work" on orders.>.
func (a *app) config(s *site, subscription string) string {
	retry := "    retry: {initialInterval: 5ms, maxInterval: 40ms, jitter: 0.1}\n"
	if strings.Contains(subscription, "retry:") {
		retry = ""
	}
	return fmt.Sprintf(`
app: {id: shop, port: %d}
upstream: {urls: [%q]}
listeners: {api: "127.0.0.1:0", metrics: "127.0.0.1:0"}
drain: {timeout: 5s}
subscriptions:
  - name: work
    subjects: ["orders.>"]
    from: all
%s
`, a.port, s.url(), retry+strings.TrimRight(subscription, "\n"))
}

const durable = "app+shop+work"

func post(t *testing.T, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	return do(t, http.MethodPost, url, body, header...)
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	return do(t, http.MethodGet, url, "")
}

func do(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func replaceDrain(cfg, timeout string) string {
	return strings.Replace(cfg, "drain: {timeout: 5s}", "drain: {timeout: "+timeout+"}", 1)
}
