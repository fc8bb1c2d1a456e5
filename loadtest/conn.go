package loadtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"time"
)

// The generator shares the processor with the node it measures. net/http's
// client costs about 55 us of processor time for each request (64 connections,
// two cores), as much as the node's whole publish. A request that is the same
// bytes but for a few digits, written to a connection that is kept alive, and a
// reader of just enough HTTP/1.1 cost 11 us, nearly all of it system calls, and
// allocate nothing.

const (
	requestTimeout = 10 * time.Second
	dialTimeout    = 5 * time.Second
	readBuffer     = 4 << 10
	maxHead        = 64 << 10 // status line and headers of an answer
	maxAnswer      = 4 << 20  // its body
)

var (
	errProtocol = errors.New("not an HTTP/1.1 response")
	errTooLong  = errors.New("response is longer than its limit")
)

// endpoint is where connections go to.
type endpoint struct {
	addr string
	host string // Host header
	path string // prefix of every path
	tls  *tls.Config
}

func newEndpoint(server string) (endpoint, error) {
	u, err := url.Parse(server)
	if err != nil {
		return endpoint{}, fmt.Errorf("server: %w", err)
	}
	ep := endpoint{host: u.Host, addr: u.Host, path: trimSlash(u.EscapedPath())}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
		ep.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	if u.Port() == "" {
		ep.addr = net.JoinHostPort(u.Hostname(), port)
	}
	return ep, nil
}

func trimSlash(s string) string {
	for len(s) > 0 && s[len(s)-1] == '/' {
		s = s[:len(s)-1]
	}
	return s
}

// conn is one keep-alive connection, used by one goroutine.
type conn struct {
	nc       net.Conn
	buf      []byte // bytes read and not yet used: buf[r:w]
	r, w     int
	body     []byte
	deadline time.Time
	stop     func() bool // ends the watch for the end of the run; nil: none
}

func (ep endpoint) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", ep.addr)
	if err != nil {
		return nil, err
	}
	if ep.tls != nil {
		tc := tls.Client(nc, ep.tls)
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, err
		}
		nc = tc
	}
	return &conn{nc: nc, buf: make([]byte, readBuffer)}, nil
}

func (c *conn) close() {
	if c.stop != nil {
		c.stop()
	}
	_ = c.nc.Close()
}

// response is an answer; body is valid until the next one is read.
type response struct {
	status int
	body   []byte
	close  bool // the connection ends with it
}

// roundTrip writes a whole request and reads its answer. A request may wait for
// between requestTimeout and one second more: moving the deadline costs as much
// as a tenth of the round trip, so it is moved once a second.
func (c *conn) roundTrip(req []byte, now time.Time) (response, error) {
	if c.deadline.Sub(now) < requestTimeout {
		c.deadline = now.Add(requestTimeout + time.Second)
		if err := c.nc.SetDeadline(c.deadline); err != nil {
			return response{}, err
		}
	}
	if _, err := c.nc.Write(req); err != nil {
		return response{}, err
	}
	for {
		resp, err := c.read()
		if err != nil || resp.status >= 200 {
			return resp, err
		}
	}
}

// read reads one response, also an interim one.
func (c *conn) read() (response, error) {
	head, err := c.head()
	if err != nil {
		return response{}, err
	}
	h, err := parseHead(head)
	if err != nil {
		return response{}, err
	}
	c.body = c.body[:0]
	resp := response{status: h.status, close: h.close}
	switch {
	case h.status < 200 || h.status == 204 || h.status == 304:
	case h.chunked:
		err = c.chunks()
	case h.length >= 0:
		err = c.take(h.length)
	default:
		resp.close = true
		err = c.untilEOF()
	}
	resp.body = c.body
	return resp, err
}

// head returns the status line and headers; they stay valid until more is read.
func (c *conn) head() ([]byte, error) {
	from := c.r
	for {
		if i := bytes.Index(c.buf[from:c.w], []byte("\r\n\r\n")); i >= 0 {
			head := c.buf[c.r : from+i+2]
			c.r = from + i + 4
			return head, nil
		}
		unseen := max(c.w-c.r-3, 0)
		if c.w-c.r >= maxHead {
			return nil, errTooLong
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
		from = c.r + unseen
	}
}

// fill reads more behind what is there; at the end of the peer's stream it is
// io.ErrUnexpectedEOF.
func (c *conn) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		if c.r > 0 {
			c.w = copy(c.buf, c.buf[c.r:c.w])
			c.r = 0
		} else {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		}
	}
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// take appends n bytes to the body.
func (c *conn) take(n int) error {
	if len(c.body)+n > maxAnswer {
		return errTooLong
	}
	for n > 0 {
		if c.r == c.w {
			if err := c.fill(); err != nil {
				return err
			}
		}
		k := min(n, c.w-c.r)
		c.body = append(c.body, c.buf[c.r:c.r+k]...)
		c.r += k
		n -= k
	}
	return nil
}

// line returns the next line without its end.
func (c *conn) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(c.buf[c.r:c.w], '\n'); i >= 0 {
			l := bytes.TrimSuffix(c.buf[c.r:c.r+i], []byte("\r"))
			c.r += i + 1
			return l, nil
		}
		if c.w-c.r >= maxHead {
			return nil, errTooLong
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

func (c *conn) chunks() error {
	for {
		l, err := c.line()
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(l, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return errProtocol
		}
		if n == 0 {
			break
		}
		if err := c.take(int(n)); err != nil {
			return err
		}
		if l, err := c.line(); err != nil || len(l) > 0 {
			return errors.Join(err, errProtocol)
		}
	}
	for { // trailers
		if l, err := c.line(); err != nil || len(l) == 0 {
			return err
		}
	}
}

func (c *conn) untilEOF() error {
	for {
		if err := c.take(c.w - c.r); err != nil {
			return err
		}
		if err := c.fill(); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
	}
}

// responseHead is what of a status line and headers decides how to read on.
type responseHead struct {
	status  int
	length  int // -1: unknown
	chunked bool
	close   bool
}

func parseHead(head []byte) (responseHead, error) {
	h := responseHead{length: -1}
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	// HTTP/1.1 200 OK
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return h, errProtocol
	}
	h.close = line[7] == '0'
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil || status < 100 {
		return h, errProtocol
	}
	h.status = status
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return h, errProtocol
		}
		if err := h.header(name, bytes.TrimSpace(value)); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (h *responseHead) header(name, value []byte) error {
	switch {
	case len(name) == 14 && bytes.EqualFold(name, []byte("content-length")):
		n, err := strconv.ParseUint(string(value), 10, 31)
		if err != nil {
			return errProtocol
		}
		h.length = int(n)
	case len(name) == 17 && bytes.EqualFold(name, []byte("transfer-encoding")):
		h.chunked = bytes.EqualFold(value, []byte("chunked"))
		if !h.chunked {
			return errProtocol
		}
	case len(name) == 10 && bytes.EqualFold(name, []byte("connection")):
		h.close = h.close || bytes.EqualFold(value, []byte("close"))
	}
	return nil
}
