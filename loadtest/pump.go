package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	retryAfter  = 20 * time.Millisecond // pause of a connection after an error
	statusTaken = 202
)

// stream is an ordered sequence of events on one subject, published by one
// connection.
type stream struct {
	key     int
	subject string
	headers string // further header lines, each with its end
	// tracked streams give each event an id and send it until it is accepted, so
	// that the accepted ones are 0 to accepted-1; a repeated one is stored once.
	tracked  bool
	accepted atomic.Uint64
}

// pump publishes streams over its connections until its time is over.
type pump struct {
	Load
	run      string
	endpoint endpoint
	streams  []*stream
	errs     *errorCounts

	times    atomic.Pointer[window] // nil until work begins
	latency  *histogram
	accepted atomic.Uint64 // in measured time
	cpu      time.Duration // of this process in measured time
}

// window is when a pump works: measured time is from measure to until.
type window struct{ begin, measure, until time.Time }

func (w window) seconds() float64 { return max(w.until.Sub(w.measure).Seconds(), 0) }

func (w window) measures(t time.Time) bool { return !t.Before(w.measure) && t.Before(w.until) }

// window is the zero value, in which nothing is measured, until work begins.
func (p *pump) window() window {
	if w := p.times.Load(); w != nil {
		return *w
	}
	return window{}
}

// newPump spreads streams over connections; there are no more connections than
// streams.
func newPump(l Load, run string, streams []*stream) (*pump, error) {
	ep, err := newEndpoint(l.Server)
	if err != nil {
		return nil, err
	}
	l.Connections = min(l.Connections, len(streams))
	return &pump{Load: l, run: run, endpoint: ep, streams: streams, errs: &errorCounts{}, latency: newHistogram()}, nil
}

// work publishes until the time is over or ctx ends. It returns an error only if
// not a single connection can be made at the start.
func (p *pump) work(ctx context.Context) error {
	first, err := p.endpoint.dial(ctx)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", p.Server, err)
	}
	first.close()
	begin := time.Now()
	measure := begin.Add(p.Warmup)
	win := window{begin, measure, measure.Add(p.Duration)}
	p.times.Store(&win)
	ctx, cancel := context.WithDeadline(ctx, win.until)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { // ends with ctx
		if wait(ctx, p.Warmup) {
			before := cpuTime()
			<-ctx.Done()
			p.cpu = cpuTime() - before
		}
	})
	for i := range p.Connections {
		wg.Go(func() { p.worker(ctx, i) }) // ends with ctx
	}
	<-ctx.Done()
	if end := time.Now(); end.Before(win.until) { // the caller's ctx ended
		p.times.Store(&window{begin, measure, end})
	}
	wg.Wait()
	return nil
}

// wait sleeps and reports whether ctx lasted.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// worker is one connection: it takes its streams in turn.
func (p *pump) worker(ctx context.Context, index int) {
	var requests []*request
	for i := index; i < len(p.streams); i += p.Connections {
		requests = append(requests, p.request(p.streams[i]))
	}
	latency, win := newHistogram(), p.window()
	defer p.latency.merge(latency)
	var c *conn
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	// A blocked read ends with ctx's own deadline; a cancel cuts it short.
	for n := 0; ; n++ {
		due, ok := p.due(ctx, win, n*p.Connections+index)
		if !ok {
			return
		}
		for r := requests[n%len(requests)]; ; {
			taken, err := p.attempt(ctx, &c, r)
			if ctx.Err() != nil && (err != nil || !taken) {
				return
			}
			now := time.Now()
			if taken {
				r.stream.accepted.Add(1)
				if win.measures(now) {
					latency.record(now.Sub(due))
					p.accepted.Add(1)
				}
			} else if !wait(ctx, retryAfter) {
				return
			}
			if taken || !r.stream.tracked {
				r.seq++
				break
			}
		}
	}
}

// due is when the n-th event of all is to be sent. In open loop that is on a
// fixed schedule and latency counts from it, whether or not the connection was
// free by then.
func (p *pump) due(ctx context.Context, win window, n int) (time.Time, bool) {
	now := time.Now()
	if p.Rate <= 0 {
		return now, now.Before(win.until) && ctx.Err() == nil
	}
	due := win.begin.Add(time.Duration(float64(n) / p.Rate * float64(time.Second)))
	return due, wait(ctx, due.Sub(now))
}

// attempt sends one request and reports whether the event was accepted. What
// went wrong is counted by kind.
func (p *pump) attempt(ctx context.Context, c **conn, r *request) (bool, error) {
	if *c == nil {
		fresh, err := p.endpoint.dial(ctx)
		if err != nil {
			if ctx.Err() == nil {
				p.errs.add("connect: " + kindOf(err))
			}
			return false, err
		}
		*c = fresh
		fresh.stop = context.AfterFunc(ctx, func() { _ = fresh.nc.SetDeadline(time.Now().Add(lastAnswer)) })
	}
	now := time.Now()
	resp, err := (*c).roundTrip(r.stamped(now), now)
	if err != nil && ctx.Err() == nil {
		p.errs.add(kindOf(err))
	}
	if err == nil && resp.status != statusTaken {
		p.errs.add(statusKind(resp))
	}
	if err != nil || resp.close {
		(*c).close()
		*c = nil
	}
	return err == nil && resp.status == statusTaken, err
}

// lastAnswer is how long a request in flight at the end may take: a tracked
// event that was stored without an answer would count as never sent.
const lastAnswer = time.Second

// request is the bytes of one stream's requests; only digits change.
type request struct {
	stream *stream
	bytes  []byte
	seq    uint64
	seqAt  int
	sentAt int
	idAt   int // sequence within Ce-Id; 0: no id
}

func (p *pump) request(s *stream) *request {
	r := &request{stream: s}
	b := append([]byte(nil), "POST "+p.endpoint.path+"/v1/events/"+s.subject+" HTTP/1.1\r\nHost: "+p.endpoint.host+
		"\r\nContent-Type: application/json\r\n"...)
	if p.Token != "" {
		b = append(b, "Authorization: Bearer "+p.Token+"\r\n"...)
	}
	b = append(b, s.headers...)
	if s.tracked {
		b = append(b, "Ce-Source: /weft/load\r\nCe-Id: "+p.run+"-"...)
		b = appendDigits(b, uint64(s.key), keyLen)
		b = append(b, '-')
		r.idAt = len(b)
		b = appendDigits(b, 0, seqLen)
		b = append(b, "\r\n"...)
	}
	b = append(b, "Content-Length: "+strconv.Itoa(max(p.Size, minSize))+"\r\n\r\n"...)
	r.bytes, r.seqAt, r.sentAt = appendBody(b, p.run, s.key, p.Size)
	return r
}

func (r *request) stamped(now time.Time) []byte {
	putDigits(r.bytes[r.seqAt:r.seqAt+seqLen], r.seq)
	putDigits(r.bytes[r.sentAt:r.sentAt+sentLen], uint64(now.UnixNano()))
	if r.idAt > 0 {
		putDigits(r.bytes[r.idAt:r.idAt+seqLen], r.seq)
	}
	return r.bytes
}

// errorCounts counts errors by kind.
type errorCounts struct {
	mu sync.Mutex
	m  map[string]uint64 // guarded by mu
}

func (e *errorCounts) add(kind string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.m == nil {
		e.m = make(map[string]uint64)
	}
	e.m[kind]++
}

func (e *errorCounts) total() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := uint64(0)
	for _, v := range e.m {
		n += v
	}
	return n
}

func (e *errorCounts) into(m map[string]uint64) map[string]uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	for kind, n := range e.m {
		if m == nil {
			m = make(map[string]uint64)
		}
		m[kind] += n
	}
	return m
}

// kindOf sorts transport errors into few kinds: an error's text names ports.
func kindOf(err error) string {
	var ne net.Error
	switch {
	case errors.Is(err, errProtocol), errors.Is(err, errTooLong):
		return "broken answer"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed by server"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no local port left"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "too many open files"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	}
	return "other"
}

// statusKind is "503 unavailable": the status and the problem's type.
func statusKind(r response) string {
	var p struct {
		Type string `json:"type"`
	}
	kind := strconv.Itoa(r.status)
	if bytes.HasPrefix(r.body, []byte("{")) && json.Unmarshal(r.body, &p) == nil && p.Type != "" && p.Type != "about:blank" {
		kind += " " + p.Type
	}
	return kind
}
