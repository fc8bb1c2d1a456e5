package gateway

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"weft.dev/weft/internal/httpd"
)

// Subprotocol is the WebSocket subprotocol of docs/protocol.md.
const Subprotocol = "weft.json.v1"

// Close codes of weft.json.v1: 4000 to 4499 mean come back, 4500 and above do
// not.
const (
	closeDrain   = 4000 // reason "after=<ms>": reconnect after that time
	closeSlow    = 4008 // took nothing for the write timeout
	closeNoPong  = 4009
	closeBad     = 4500 // a frame that is no JSON object, or binary
	closeNoHello = 4504
	closeVersion = 4505
)

const (
	closeWait = time.Second     // for the client's answer to our close frame
	drainSlot = 2 * time.Second // reconnects after a drain spread over this time
	pongWait  = 24              // tenths of the heartbeat interval without any sign of life
	stepLimit = 256             // events of one subscription before the socket's next one has its turn
	frameSoft = 16 << 10        // an evs frame ends after the event that passes this
	keepFrame = 64 << 10        // a larger buffer is not kept for the next frame
)

func newUpgrader() websocket.Upgrader {
	return websocket.Upgrader{
		ReadBufferSize:  1 << 10, // client frames are small; larger ones only take more reads
		WriteBufferSize: 4 << 10,
		WriteBufferPool: &sync.Pool{},
		Subprotocols:    []string{Subprotocol},
		CheckOrigin:     func(*http.Request) bool { return true }, // origins.guard has decided
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			httpd.WriteProblem(w, httpd.Problem{Type: "bad-handshake", Title: "The WebSocket handshake is not valid", Status: status, Detail: reason.Error()})
		},
	}
}

// session is one WebSocket. Its reader goroutine lives as long as the socket; a
// second goroutine exists only while there is something to send.
type session struct {
	gw     *Server
	ws     *websocket.Conn
	serial uint64
	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	ending atomic.Pointer[closing] // why the server ends it
	batch  bool                    // the client takes evs frames; set by hello

	wmu sync.Mutex // one frame at a time

	// mu guards what follows. It is never held while the tail is called, which
	// wakes sessions under its own lock.
	mu      sync.Mutex
	subs    []*wsSub
	running bool // a drain goroutine is there
	again   bool // and must look once more
	beats   bool // and must send a heartbeat
	closed  bool
	drains  sync.WaitGroup
}

// wsSub is a subscription of a WebSocket.
type wsSub struct {
	subscription
	id   string
	gone bool // guarded by the session's wmu: send nothing more
}

// closing is a close frame.
type closing struct {
	code   int
	reason string
	theirs bool // the client sent its close frame first
}

// serveWS is GET /v1/ws.
func (s *Server) serveWS(w http.ResponseWriter, r *http.Request) {
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		httpd.WriteProblem(w, httpd.Problem{
			Type: "upgrade-required", Title: "This is a WebSocket", Status: http.StatusUpgradeRequired,
			Field: "Upgrade", Detail: "Upgrade: want websocket with the subprotocol " + Subprotocol,
		})
		return
	}
	if !slices.Contains(websocket.Subprotocols(r), Subprotocol) {
		httpd.WriteProblem(w, httpd.Problem{
			Type: "unknown-subprotocol", Title: "The subprotocol is not one Weft speaks", Status: http.StatusBadRequest,
			Field: "Sec-WebSocket-Protocol", Detail: "Sec-WebSocket-Protocol: want " + Subprotocol,
		})
		return
	}
	if err := s.enter(); err != nil {
		httpd.WriteProblem(w, httpd.ProblemOf(err))
		return
	}
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil { // answered by the upgrader
		s.leave()
		return
	}
	ses := s.admit(ws)
	go ses.run() // ends with the socket; drain waits for it
}

func (s *Server) admit(ws *websocket.Conn) *session {
	ses := &session{gw: s, ws: ws}
	ses.ctx, ses.cancel = context.WithCancel(context.Background())
	ws.SetReadLimit(s.cfg.MaxFrame.Bytes())
	s.mu.Lock()
	s.serial++
	ses.serial = s.serial
	s.sessions[ses] = struct{}{}
	s.mu.Unlock()
	s.metrics.connections.Inc()
	return ses
}

// run reads frames until the socket ends, then leaves nothing behind.
func (s *session) run() {
	end := s.serve()
	s.mu.Lock()
	s.closed = true
	subs := s.subs
	s.mu.Unlock()
	s.cancel()
	s.shut(end)
	s.drains.Wait()
	for _, sub := range subs {
		s.gw.tail.unsubscribe(&sub.subscription)
	}
	s.gw.mu.Lock()
	delete(s.gw.sessions, s)
	s.gw.mu.Unlock()
	s.gw.metrics.connections.Dec()
	s.gw.metrics.close(end.code)
	s.gw.Log.Debug("websocket closed", "serial", s.serial, "code", end.code, "reason", end.reason)
	s.gw.leave()
}

// serve handles frames until the socket ends and says why it did.
func (s *session) serve() *closing {
	select {
	case <-s.gw.stop: // the drain may have come before this session was listed
		return drainClosing()
	default:
	}
	_ = s.ws.SetReadDeadline(time.Now().Add(helloTimeout))
	greeted := false
	for {
		kind, data, err := s.ws.ReadMessage()
		if err != nil {
			return s.readEnd(err, greeted)
		}
		if kind != websocket.TextMessage {
			return &closing{code: closeBad, reason: "want a text frame with one JSON object"}
		}
		var end *closing
		if greeted {
			end = s.handle(data)
		} else {
			end = s.hello(data)
			greeted = true
			s.ws.SetPongHandler(func(string) error { s.extend(); return nil }) // from now on: a pong is no hello
		}
		if end != nil {
			return end
		}
		s.extend()
	}
}

// extend gives the client another while to show that it lives.
func (s *session) extend() {
	wait := s.gw.cfg.Heartbeat.Std() * pongWait / 10
	_ = s.ws.SetReadDeadline(time.Now().Add(wait)) // a broken socket fails the next read
	if s.ending.Load() != nil {
		_ = s.ws.SetReadDeadline(time.Now())
	}
}

// end makes the reader stop and close the socket. The first reason counts.
func (s *session) end(code int, reason string) {
	if s.ending.CompareAndSwap(nil, &closing{code: code, reason: reason}) {
		_ = s.ws.NetConn().SetReadDeadline(time.Now()) // a broken socket fails anyway
	}
}

func drainClosing() *closing {
	return &closing{code: closeDrain, reason: "after=" + strconv.FormatInt(rand.N(drainSlot).Milliseconds(), 10)}
}

// readEnd tells why reading stopped.
func (s *session) readEnd(err error, greeted bool) *closing {
	if end := s.ending.Load(); end != nil {
		return end
	}
	if ce, ok := errors.AsType[*websocket.CloseError](err); ok {
		return &closing{code: ce.Code, reason: "by the client", theirs: true}
	}
	timeout := false
	if ne, ok := errors.AsType[net.Error](err); ok {
		timeout = ne.Timeout()
	}
	switch {
	case errors.Is(err, websocket.ErrReadLimit):
		return &closing{code: websocket.CloseMessageTooBig, reason: "frame too large"}
	case timeout && !greeted:
		return &closing{code: closeNoHello, reason: "want a hello frame first, within " + helloTimeout.String()}
	case timeout:
		return &closing{code: closeNoPong, reason: "no sign of life"}
	}
	return &closing{code: websocket.CloseAbnormalClosure, reason: "connection lost"}
}

// shut sends the close frame and closes the socket after the client has had a
// moment to take it: an early close may destroy what is on its way.
func (s *session) shut(end *closing) {
	if end.code != websocket.CloseAbnormalClosure && end.code != websocket.CloseNoStatusReceived {
		_ = s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(end.code, end.reason), time.Now().Add(closeWait))
	}
	conn := s.ws.NetConn()
	if half, ok := conn.(interface{ CloseWrite() error }); ok && !end.theirs && half.CloseWrite() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(closeWait))
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, s.gw.cfg.MaxFrame.Bytes()))
	}
	_ = conn.Close() // the peer is gone or has had its time
}

// beat has the drain goroutine send a heartbeat.
func (s *session) beat() {
	s.mu.Lock()
	s.beats = true
	s.mu.Unlock()
	s.wake()
}

// wake makes sure that a drain goroutine looks at all subscriptions.
func (s *session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.running {
		s.again = true
		return
	}
	s.running = true
	s.drains.Add(1)
	go s.drain() // ends when nothing is left to send; run waits for it
}

// drain sends everything there is and ends.
func (s *session) drain() {
	defer s.drains.Done()
	var subs []*wsSub
	for {
		s.mu.Lock()
		subs = append(subs[:0], s.subs...)
		beat := s.beats
		s.beats, s.again = false, false
		s.mu.Unlock()
		if beat {
			s.heartbeat()
		}
		for s.round(subs) {
		}
		s.mu.Lock()
		if !s.again || s.closed {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// round gives every subscription one step and reports whether one has more.
func (s *session) round(subs []*wsSub) (more bool) {
	for _, sub := range subs {
		if s.ctx.Err() != nil {
			return false
		}
		if !sub.dirty.Swap(false) {
			continue
		}
		st, err := sub.next(s.ctx, stepLimit)
		if err != nil {
			if s.ctx.Err() == nil {
				s.gw.Log.Debug("history not read", "serial", s.serial, "err", err)
				time.AfterFunc(retryPage, sub.wake)
			}
			continue
		}
		if err := s.send(sub, st); err != nil {
			s.broken(err)
			return false
		}
		if st.more {
			sub.dirty.Store(true)
			more = true
		}
	}
	return more
}

// broken ends a socket that cannot be written to.
func (s *session) broken(err error) {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		s.end(closeSlow, "took nothing for "+s.gw.cfg.WriteTimeout.String())
		return
	}
	s.end(websocket.CloseAbnormalClosure, "connection lost")
}

func (s *session) heartbeat() {
	deadline := time.Now().Add(s.gw.cfg.WriteTimeout.Std())
	if err := s.ws.WriteControl(websocket.PingMessage, nil, deadline); err != nil {
		s.broken(err)
		return
	}
	if err := s.write(frameHeartbeat); err != nil {
		s.broken(err)
	}
}

// write sends one frame.
func (s *session) write(frame []byte) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return s.writeLocked(frame)
}

func (s *session) writeLocked(frame []byte) error {
	_ = s.ws.SetWriteDeadline(time.Now().Add(s.gw.cfg.WriteTimeout.Std())) // never fails in gorilla
	return s.ws.WriteMessage(websocket.TextMessage, frame)
}
