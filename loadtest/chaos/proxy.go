package chaos

import (
	"context"
	"net"
	"sync"
	"time"
)

// line is the network between two sites: every connection of their link goes
// through it, and it can be cut, held and slowed.
type line struct {
	mu      sync.Mutex
	proxies []*proxy
	conns   map[*net.TCPConn]struct{} // guarded by mu
	open    chan struct{}             // guarded by mu: closed while bytes pass
	delay   time.Duration             // guarded by mu: of each direction
	speed   float64                   // guarded by mu: bytes per second of a connection; 0: any
	done    chan struct{}
	wg      sync.WaitGroup
}

func newLine() *line {
	l := &line{conns: map[*net.TCPConn]struct{}{}, open: make(chan struct{}), done: make(chan struct{})}
	close(l.open)
	return l
}

// proxy takes the connections to one node's link address.
type proxy struct {
	line   *line
	addr   string // where it listens
	target string
	ln     net.Listener // guarded by the line's mu; nil while cut
}

// to adds a proxy for a node and returns the address to dial instead.
func (l *line) to(listen, target string) (string, error) {
	p := &proxy{line: l, addr: listen, target: target}
	l.proxies = append(l.proxies, p)
	return p.addr, p.listen()
}

func (p *proxy) listen() error {
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", p.addr)
	if err != nil {
		return err
	}
	p.line.mu.Lock()
	p.ln = ln
	p.line.mu.Unlock()
	p.line.wg.Go(func() { // ends when the listener is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.line.wg.Go(func() { p.line.serve(c.(*net.TCPConn), p.target) })
		}
	})
	return nil
}

// cut resets every connection and refuses new ones.
func (l *line) cut() {
	l.mu.Lock()
	for _, p := range l.proxies {
		if p.ln != nil {
			_ = p.ln.Close()
			p.ln = nil
		}
	}
	l.mu.Unlock()
	l.reset()
}

// mend listens again.
func (l *line) mend(ctx context.Context) error {
	for _, p := range l.proxies {
		var err error
		if !poll(ctx, 50*time.Millisecond, func() bool { err = p.listen(); return err == nil }) {
			return err
		}
	}
	return nil
}

// reset ends every connection.
func (l *line) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.SetLinger(0) // a reset, not an orderly end
		_ = c.Close()
	}
}

// hold lets connections stand and new ones be made, and no byte pass.
func (l *line) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = make(chan struct{})
}

// release lets what was held go on.
func (l *line) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.open)
}

// slow delays each direction and bounds its bytes per second; 0 is none.
func (l *line) slow(delay time.Duration, speed float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay, l.speed = delay, speed
}

func (l *line) state() (open chan struct{}, delay time.Duration, speed float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open, l.delay, l.speed
}

// close ends everything.
func (l *line) close() {
	close(l.done)
	l.cut()
	l.wg.Wait()
}

// serve carries one connection.
func (l *line) serve(in *net.TCPConn, target string) {
	defer in.Close()
	if !l.pass() {
		return
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(context.Background(), "tcp", target)
	if err != nil {
		_ = in.SetLinger(0)
		return // the node is down
	}
	out := c.(*net.TCPConn)
	defer out.Close()
	l.mu.Lock()
	l.conns[in], l.conns[out] = struct{}{}, struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.pump(out, in) })
	both.Go(func() { l.pump(in, out) })
	both.Wait()
	l.mu.Lock()
	delete(l.conns, in)
	delete(l.conns, out)
	l.mu.Unlock()
}

// pass waits until bytes may pass; false: the run is over.
func (l *line) pass() bool {
	for {
		open, _, _ := l.state()
		select {
		case <-open:
			return true
		case <-l.done:
			return false
		}
	}
}

// Bytes under way in one direction: enough for 64 MB/s at 100 ms.
const (
	chunkBytes = 64 << 10
	chunks     = 100
)

type chunk struct {
	data []byte
	due  time.Time
}

// pump carries one direction until either end closes.
func (l *line) pump(dst, src *net.TCPConn) {
	defer dst.Close()
	defer src.Close()
	way := make(chan chunk, chunks)
	go func() { // ends when src is closed, at the latest by the pump
		defer close(way)
		buf := make([]byte, chunkBytes)
		for {
			n, err := src.Read(buf)
			if n > 0 {
				_, delay, _ := l.state()
				way <- chunk{append([]byte(nil), buf[:n]...), time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range way {
		if !l.deliver(dst, c) {
			_ = src.Close()
			for range way { // until its reader has seen the end
			}
			return
		}
	}
}

// deliver writes a chunk when it is due and may pass.
func (l *line) deliver(dst *net.TCPConn, c chunk) bool {
	_, _, speed := l.state()
	wait := time.Until(c.due)
	if speed > 0 {
		wait = max(wait, 0) + time.Duration(float64(len(c.data))/speed*float64(time.Second))
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-l.done:
			return false
		}
	}
	if !l.pass() {
		return false
	}
	_, err := dst.Write(c.data)
	return err == nil
}
