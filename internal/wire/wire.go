// Package wire publishes to the server of the same process with headers that are
// text already. nats.go takes headers as a map and writes them anew for each
// message; what a link takes over by the ten thousand a second has them as text.
// It speaks the part of the NATS client protocol that this needs. No
// compatibility promise.
package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Conn is a connection that publishes and hears the answers to that. It is safe for concurrent use.
type Conn struct {
	conn    net.Conn
	max     int // payload with headers, in bytes
	reading sync.WaitGroup

	inbox string        // prefix of the subjects of answers
	ended chan struct{} // closed when nothing is read any more

	mu      sync.Mutex
	w       *bufio.Writer          // guarded by mu
	b       []byte                 // guarded by mu
	err     error                  // guarded by mu: why the connection is of no use any more
	asked   uint64                 // guarded by mu
	waiting map[string]chan []byte // guarded by mu, by subscription
}

// Errors of one message; the connection goes on.
var (
	ErrTooLarge   = errors.New("message larger than the server's max_payload")
	ErrBadSubject = errors.New("subject that the protocol cannot carry")
	ErrBadHeader  = errors.New("header that the protocol cannot carry")
)

const (
	// handshake bounds the first exchange with the server.
	handshake = 5 * time.Second
	// maxSubject leaves room in the server's control line of 4096 bytes.
	maxSubject = 3800
	buffer     = 64 << 10
	statusLine = "NATS/1.0\r\n"
)

// Dial introduces a client named name on a connection to the server, which it
// takes over.
func Dial(conn net.Conn, name, user, password string) (*Conn, error) {
	c, err := dial(conn, name, user, password)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to own server: %w", err)
	}
	return c, nil
}

func dial(conn net.Conn, name, user, password string) (*Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(handshake)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	var info struct {
		MaxPayload int `json:"max_payload"`
	}
	text, ok := strings.CutPrefix(line, "INFO ")
	if !ok {
		return nil, fmt.Errorf("the server begins with %.40q", line)
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return nil, fmt.Errorf("read the server's greeting: %w", err)
	}
	hello, err := json.Marshal(map[string]any{
		"verbose": false, "pedantic": false, "headers": true, "protocol": 1, "lang": "go", "version": "1",
		"name": name, "user": user, "pass": password,
	})
	if err != nil {
		return nil, err
	}
	c := &Conn{
		conn: conn, max: info.MaxPayload, w: bufio.NewWriterSize(conn, buffer),
		inbox: "_INBOX." + rand.Text() + ".", ended: make(chan struct{}), waiting: map[string]chan []byte{},
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", hello); err != nil {
		return nil, err
	}
	if line, err = r.ReadString('\n'); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(line, "PONG") {
		return nil, fmt.Errorf("the server answers %.80q", strings.TrimSpace(line))
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	c.reading.Go(func() { // ends with Close, or when the server closes
		defer close(c.ended)
		c.read(r)
	})
	return c, nil
}

// read takes what the server says until the connection ends.
func (c *Conn) read(r *bufio.Reader) {
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case err != nil:
		case bytes.HasPrefix(line, []byte("PING")):
			err = c.pong()
		case bytes.HasPrefix(line, []byte("-ERR")):
			err = fmt.Errorf("the server says %.120q", line)
		case bytes.HasPrefix(line, []byte("MSG ")):
			err = c.answer(r, strings.Fields(string(line)))
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// answer reads MSG <subject> <sid> <bytes> and hands the data on.
func (c *Conn) answer(r *bufio.Reader, fields []string) error {
	n, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil || n < 0 || n > c.max || len(fields) < 4 {
		return fmt.Errorf("the server sends %q", fields)
	}
	sid := fields[2]
	data := make([]byte, n+2) // and CRLF
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting[sid]; w != nil {
		w <- data[:n] // it has room for one, and there is one answer
		delete(c.waiting, sid)
	}
	return nil
}

func (c *Conn) pong() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.w.WriteString("PONG\r\n")
	return errors.Join(err, c.w.Flush())
}

func (c *Conn) fail(err error) {
	_ = c.conn.Close() // first: it ends a write that holds the lock
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// Err tells why the connection has ended; nil: it has not.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Message is what is published. Its header is lines of text, each "Name: value"
// and CRLF: those of First, then those of Header.
type Message struct {
	Subject      string
	First        string
	Header, Data []byte
}

// Publish writes a message to the buffer, which is sent when it is full or by
// Request.
func (c *Conn) Publish(m Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.publish(m, "")
}

// publish is Publish with a reply subject; the caller holds mu.
func (c *Conn) publish(m Message, reply string) error {
	if !plain(m.Subject) {
		return ErrBadSubject
	}
	hdr := len(statusLine) + len(m.First) + len(m.Header) + 2
	total := hdr + len(m.Data)
	if total > c.max {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, total, c.max)
	}
	if c.err != nil {
		return c.err
	}
	b := append(append(append(c.b[:0], "HPUB "...), m.Subject...), ' ')
	if reply != "" {
		b = append(append(b, reply...), ' ')
	}
	b = strconv.AppendInt(b, int64(hdr), 10)
	b = strconv.AppendInt(append(b, ' '), int64(total), 10)
	b = append(append(b, "\r\n"+statusLine...), m.First...)
	b = append(append(append(b, m.Header...), "\r\n"...), m.Data...)
	c.b = append(b, "\r\n"...)
	_, err := c.w.Write(c.b)
	if cap(c.b) > buffer {
		c.b = nil // one large event does not keep its room
	}
	if err != nil {
		c.err = err
	}
	return err
}

// Request publishes a message and returns the data of the one answer to it.
func (c *Conn) Request(ctx context.Context, m Message) ([]byte, error) {
	answer := make(chan []byte, 1)
	sid, err := c.ask(m, answer)
	if err != nil {
		return nil, err
	}
	select {
	case data := <-answer:
		return data, nil
	case <-c.ended:
		return nil, c.Err()
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, open := c.waiting[sid]; open && c.err == nil {
		delete(c.waiting, sid)
		_, err = fmt.Fprintf(c.w, "UNSUB %s\r\n", sid)
	}
	return nil, errors.Join(ctx.Err(), err)
}

// ask sends a message with a subscription to its answer before it.
func (c *Conn) ask(m Message, answer chan []byte) (sid string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return "", c.err
	}
	c.asked++
	sid = strconv.FormatUint(c.asked, 10)
	reply := c.inbox + sid
	if _, err := fmt.Fprintf(c.w, "SUB %s %s\r\nUNSUB %s 1\r\n", reply, sid, sid); err != nil {
		return "", err
	}
	if err := c.publish(m, reply); err != nil {
		return "", err
	}
	c.waiting[sid] = answer
	if err := c.w.Flush(); err != nil {
		c.err = err
	}
	return sid, c.err
}

func plain(s string) bool {
	return s != "" && len(s) <= maxSubject && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}

// Close ends the connection.
func (c *Conn) Close() {
	c.fail(io.ErrClosedPipe)
	c.reading.Wait()
}

// Lines tells whether b is header lines as a Message has them, and calls each with
// every name and value.
func Lines(b []byte, each func(name, value []byte)) error {
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte("\r\n"))
		name, value, colon := bytes.Cut(line, []byte(":"))
		if !ok || !colon || len(name) == 0 || bytes.ContainsAny(line, "\r\n") {
			return ErrBadHeader
		}
		each(name, bytes.TrimLeft(value, " "))
		b = rest
	}
	return nil
}
