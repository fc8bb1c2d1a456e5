package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
)

const patience = 10 * time.Second

// memory is a site's stream in memory, with retention and a change of epoch on
// demand.
type memory struct {
	mu      sync.Mutex
	epoch   string
	first   uint64
	read    uint64         // handed to a reader
	events  []event.Stored // from first; an empty Path is a message that is no event
	changed chan struct{}  // closed and replaced at every append
}

func newMemory() *memory { return &memory{epoch: "e1", first: 1, changed: make(chan struct{})} }

func (m *memory) last() uint64 { return m.first + uint64(len(m.events)) - 1 }

func (m *memory) append(path string, e event.Event) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := m.last() + 1
	m.events = append(m.events, event.Stored{Event: e, Path: path, Origin: "test", Seq: seq, StoredAt: time.Now()})
	close(m.changed)
	m.changed = make(chan struct{})
	return seq
}

// purge removes everything up to seq, and no more than a reader has had.
func (m *memory) purge(seq uint64) (upTo uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq = min(seq, m.read)
	if seq >= m.first {
		m.events = m.events[seq-m.first+1:]
		m.first = seq + 1
	}
	return m.first - 1
}

// purgeAll is purge, but waits until the reader has had everything.
func (m *memory) purgeAll(seq uint64) uint64 {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		if got := m.purge(seq); got >= seq {
			return got
		}
	}
	return 0
}

// replace makes a stream of last events on "a", stored at a time, of which those
// before first are gone before anybody has read them.
func (m *memory) replace(last, first uint64, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.first, m.events = first, nil
	for seq := first; seq <= last; seq++ {
		m.events = append(m.events, event.Stored{Event: event.Event{ID: fmt.Sprint(seq), Source: "/t", Type: "t"}, Path: "a", Seq: seq, StoredAt: at})
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) renew() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch, m.first, m.read, m.events = m.epoch+"x", 1, 0, nil
}

func (m *memory) Info(context.Context) (bus.StreamInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bus.StreamInfo{Epoch: m.epoch, First: m.first, Last: m.last()}, nil
}

func (m *memory) Page(_ context.Context, cfg bus.PageConfig) ([]event.Stored, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []event.Stored
	next := cfg.After
	for seq := max(cfg.After+1, m.first); seq <= min(cfg.UpTo, m.last()) && len(out) < cfg.Max; seq++ {
		next = seq
		if e := m.events[seq-m.first]; e.Path != "" && event.Match(cfg.Pattern, e.Path) {
			out = append(out, e)
		}
	}
	if len(out) < cfg.Max {
		next = cfg.UpTo
	}
	return out, next, nil
}

func (m *memory) Read(ctx context.Context, cfg bus.ReadConfig, h func(event.Stored) error) error {
	after := cfg.After
	m.mu.Lock()
	m.read = max(m.read, after)
	m.mu.Unlock()
	for ctx.Err() == nil {
		m.mu.Lock()
		changed := m.changed
		var batch []event.Stored
		if from := max(after+1, m.first); from <= m.last() {
			batch = m.events[from-m.first:]
		}
		m.mu.Unlock()
		for _, e := range batch {
			after = e.Seq
			m.mu.Lock()
			m.read = after
			m.mu.Unlock()
			if e.Path == "" {
				continue
			}
			if err := h(e); err != nil {
				return err
			}
		}
		if len(batch) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

func (m *memory) Publish(_ context.Context, p bus.Publication) (bus.Ack, error) {
	if p.Event.ID == "unavailable" {
		return bus.Ack{}, fmt.Errorf("publish: %w", bus.ErrUnavailable)
	}
	p.Event.Data = append([]byte(nil), p.Event.Data...)
	seq := m.append(p.Subject, p.Event)
	return bus.Ack{ID: p.Event.ID, Subject: p.Subject, Site: "test", Seq: seq, Cursor: cursor(m.epoch, seq)}, nil
}

func (m *memory) PublishAll(ctx context.Context, ps []bus.Publication) []bus.Result {
	out := make([]bus.Result, len(ps))
	for i, p := range ps {
		out[i].Ack, out[i].Err = m.Publish(ctx, p)
	}
	return out
}

func cursor(epoch string, seq uint64) string { return fmt.Sprintf("EVENTS@%s:%d", epoch, seq) }

// put stores an event of this type on path.
func (m *memory) put(path, typ string) uint64 {
	return m.append(path, event.Event{ID: fmt.Sprint(m.last()), Source: "/t", Type: typ, Data: []byte(`{"a":1}`), DataContentType: "application/json"})
}

// setup changes what a test's gateway is made of.
type setup func(*gateway.Config, *gateway.Deps)

// start runs a gateway on m until the test ends and returns its host:port.
func start(t *testing.T, m *memory, setups ...setup) string {
	t.Helper()
	addr, _ := startStop(t, m, setups...)
	return addr
}

// startStop is start with a way to stop the gateway before the test ends. It is
// checked to stop cleanly.
func startStop(t *testing.T, m *memory, setups ...setup) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := gateway.DefaultConfig()
	d := gateway.Deps{Scope: obs.Discard(), Log: m, Publisher: m, Site: "test", Node: "n1", Listener: l}
	for _, f := range setups {
		f(&cfg, &d)
	}
	s, err := gateway.New(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("the gateway does not stop")
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// frame is any frame of the server.
type frame struct {
	T, ID, Code, Msg, P, From, To, Head, Why, TP, Event, Sid string
	S                                                        uint64
	HB, V                                                    int
	Retry, Duplicate                                         bool
	After                                                    int
	Max                                                      struct{ Subs, Frame int }
	Streams                                                  map[string]string
	E                                                        *event.Event
	B                                                        [][]json.RawMessage
}

// client is a WebSocket client that fails its test on trouble.
type client struct {
	t *testing.T
	*websocket.Conn
}

func connect(t *testing.T, addr string, header http.Header) (*client, *http.Response, error) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{gateway.Subprotocol}, HandshakeTimeout: patience}
	ws, resp, err := d.DialContext(t.Context(), "ws://"+addr+"/v1/ws", header)
	if err != nil {
		return nil, resp, err
	}
	t.Cleanup(func() { _ = ws.Close() })
	return &client{t, ws}, resp, nil
}

// dial connects and says hello.
func dial(t *testing.T, addr string, caps ...string) *client {
	t.Helper()
	c, _, err := connect(t, addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.send(map[string]any{"t": "hello", "v": 1, "caps": caps})
	if f := c.next(); f.T != "welcome" {
		t.Fatalf("answer to hello: %+v", f)
	}
	return c
}

func (c *client) send(v any) {
	c.t.Helper()
	if err := c.WriteJSON(v); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) text(s string) {
	c.t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

// next is the next frame that is no heartbeat.
func (c *client) next() frame {
	c.t.Helper()
	for {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, data, err := c.ReadMessage()
		if err != nil {
			c.t.Fatalf("read: %v", err)
		}
		var f frame
		if err := json.Unmarshal(data, &f); err != nil {
			c.t.Fatalf("frame %s: %v", data, err)
		}
		if f.T != "hb" {
			return f
		}
	}
}

// want reads the next frame and compares its t.
func (c *client) want(typ string) frame {
	c.t.Helper()
	f := c.next()
	if f.T != typ {
		c.t.Fatalf("frame %+v, want %s", f, typ)
	}
	return f
}

// closed reads until the close frame and returns its code and reason.
func (c *client) closed() (int, string) {
	c.t.Helper()
	for {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := c.ReadMessage(); err != nil {
			ce, ok := errors.AsType[*websocket.CloseError](err)
			if !ok {
				c.t.Fatalf("no close frame: %v", err)
			}
			return ce.Code, ce.Text
		}
	}
}

// sub subscribes and returns the answer.
func (c *client) sub(members map[string]any) frame {
	c.t.Helper()
	m := map[string]any{"t": "sub", "id": "a"}
	for k, v := range members {
		m[k] = v
	}
	c.send(m)
	return c.want("subbed")
}
