package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	subprotocol  = "weft.json.v1"
	dialsAtOnce  = 32
	openTimeout  = 10 * time.Second // from dial to subbed, for one socket
	socketBuffer = 4 << 10
)

// FanoutConfig is the scenario "fanout": socket i listens to subject i mod
// Subjects.
type FanoutConfig struct {
	Load
	Sockets  int
	Subjects int
	Batch    bool // take several events in one frame (evs)
}

// DefaultFanout is 1,000 sockets over 10 subjects at 500 events a second.
func DefaultFanout() FanoutConfig {
	return FanoutConfig{
		Load: Load{
			Duration: 10 * time.Second, Warmup: time.Second, Rate: 500, Size: 256, Connections: 8, Grace: 10 * time.Second,
		},
		Sockets: 1000, Subjects: 10, Batch: true,
	}
}

// Validate names every setting that cannot work.
func (c FanoutConfig) Validate() error {
	return errors.Join(
		c.validate(),
		check(c.Sockets > 0 && c.Sockets <= maxSockets, "sockets", fmt.Sprintf("1 to %d", maxSockets)),
		check(c.Subjects > 0 && c.Subjects <= min(c.Sockets, maxStreams), "subjects", fmt.Sprintf("1 to %d, at most one for each socket", maxStreams)),
	)
}

// Fanout runs the scenario.
func Fanout(ctx context.Context, cfg FanoutConfig, progress io.Writer) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	run := newRun()
	streams := make([]*stream, cfg.Subjects)
	for k := range streams {
		streams[k] = &stream{key: k, subject: fmt.Sprintf("load.fanout.%s.%d", run, k), tracked: true}
	}
	p, err := newPump(cfg.Load, run, streams)
	if err != nil {
		return Report{}, err
	}
	f := &fanout{cfg: cfg, pump: p, sink: newSink(run, p)}
	defer f.close()
	if err := f.open(ctx, progress); err != nil {
		return Report{}, err
	}
	if err := f.sink.publish(ctx, "fanout", f.receivers, progress); err != nil {
		return Report{}, err
	}
	f.close()
	r := p.report("fanout", Setting{"sockets", fmt.Sprint(cfg.Sockets)}, Setting{"subjects", fmt.Sprint(cfg.Subjects)})
	r.Delivery = f.sink.delivery(f.receivers)
	r.Delivery.Ordered, r.Delivery.ExactlyOnce = true, true
	return r, nil
}

type fanout struct {
	cfg       FanoutConfig
	pump      *pump
	sink      *sink
	sockets   []*websocket.Conn // written by open only
	receivers []*receiver
	readers   sync.WaitGroup
	ending    atomic.Bool // sockets close because the run is over
	closing   sync.Once
}

// open connects and subscribes every socket.
func (f *fanout) open(ctx context.Context, progress io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.sockets = make([]*websocket.Conn, f.cfg.Sockets)
	f.receivers = make([]*receiver, f.cfg.Sockets)
	errs := make(chan error, f.cfg.Sockets)
	slots := make(chan struct{}, dialsAtOnce)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range f.cfg.Sockets {
		slots <- struct{}{}
		wg.Go(func() { // ends within openTimeout
			defer func() { <-slots }()
			ws, err := f.socket(ctx, i%f.cfg.Subjects)
			f.sockets[i] = ws
			f.receivers[i] = &receiver{ledger: newLedger(), keys: []int{i % f.cfg.Subjects}}
			if err != nil {
				cancel() // the others need not try
				errs <- fmt.Errorf("open socket %d of %d: %w", i+1, f.cfg.Sockets, err)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	if progress != nil {
		fmt.Fprintf(progress, "fanout %d sockets open after %.1f s\n", f.cfg.Sockets, time.Since(begin).Seconds())
	}
	for i, ws := range f.sockets {
		f.readers.Go(func() { f.read(ws, f.receivers[i].ledger) }) // ends with close
	}
	return nil
}

// socket opens one WebSocket and waits until its subscription stands.
func (f *fanout) socket(ctx context.Context, subject int) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	d := websocket.Dialer{Subprotocols: []string{subprotocol}, ReadBufferSize: socketBuffer, WriteBufferSize: 1 << 10}
	h := http.Header{}
	if f.cfg.Token != "" {
		h.Set("Authorization", "Bearer "+f.cfg.Token)
	}
	ws, resp, err := d.DialContext(ctx, "ws"+strings.TrimPrefix(trimSlash(f.cfg.Server), "http")+"/v1/ws", h)
	if resp != nil {
		_ = resp.Body.Close() // empty, or read already
	}
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("%w: %s", err, resp.Status)
		}
		return nil, err
	}
	if err := f.subscribe(ctx, ws, subject); err != nil {
		_ = ws.Close()
		return nil, err
	}
	return ws, nil
}

func (f *fanout) subscribe(ctx context.Context, ws *websocket.Conn, subject int) error {
	deadline, _ := ctx.Deadline()
	_ = ws.SetReadDeadline(deadline)
	hello := map[string]any{"t": "hello", "v": 1, "name": "weft-load"}
	if f.cfg.Token != "" {
		hello["token"] = f.cfg.Token
	}
	if f.cfg.Batch {
		hello["caps"] = []string{"evs"}
	}
	if err := ws.WriteJSON(hello); err != nil {
		return err
	}
	if err := expect(ws, "welcome"); err != nil {
		return err
	}
	sub := map[string]any{
		"t": "sub", "id": "load", "subject": f.pump.streams[subject].subject, "start": map[string]bool{"live": true},
	}
	if err := ws.WriteJSON(sub); err != nil {
		return err
	}
	if err := expect(ws, "subbed"); err != nil {
		return err
	}
	return ws.SetReadDeadline(time.Time{})
}

// expect reads until a frame of the wanted type; heartbeats and the like pass.
func expect(ws *websocket.Conn, want string) error {
	for {
		_, b, err := ws.ReadMessage()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", want, err)
		}
		var m struct{ T, Code, Msg string }
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("wait for %s: %w", want, err)
		}
		switch m.T {
		case want:
			return nil
		case "err":
			return fmt.Errorf("wait for %s: %s: %s", want, m.Code, m.Msg)
		}
	}
}

// read takes frames until the socket is closed.
func (f *fanout) read(ws *websocket.Conn, l *ledger) {
	var frame bytes.Buffer
	for {
		_, r, err := ws.NextReader()
		if err == nil {
			frame.Reset()
			_, err = frame.ReadFrom(r)
		}
		if err != nil {
			if !f.ending.Load() {
				f.pump.errs.add("socket: " + closeKind(err))
			}
			return
		}
		if b := frame.Bytes(); f.sink.take(l, b) == 0 {
			f.control(b)
		}
	}
}

// control counts frames that tell of something wrong.
func (f *fanout) control(b []byte) {
	var m struct{ T, Code, Why string }
	if json.Unmarshal(b, &m) != nil {
		f.pump.errs.add("socket: frame is no JSON")
		return
	}
	switch m.T {
	case "gap":
		f.pump.errs.add("socket: gap " + m.Why)
	case "err":
		f.pump.errs.add("socket: " + m.Code)
	case "drain":
		f.pump.errs.add("socket: drained")
	}
}

func closeKind(err error) string {
	if ce, ok := errors.AsType[*websocket.CloseError](err); ok {
		return fmt.Sprintf("closed with %d", ce.Code)
	}
	return kindOf(err)
}

// close ends every socket and waits for its reader.
func (f *fanout) close() {
	f.closing.Do(func() {
		f.ending.Store(true)
		for _, ws := range f.sockets {
			if ws != nil {
				bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
				_ = ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)) // gone already is fine
				_ = ws.Close()
			}
		}
		f.readers.Wait()
	})
}
