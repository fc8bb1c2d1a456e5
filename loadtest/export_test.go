package loadtest

import (
	"net"
	"time"
)

// For the external tests of this package.

// Ledger is the accounting of one receiver.
type Ledger = ledger

// NewLedger returns an empty one.
func NewLedger() *Ledger { return newLedger() }

// Note takes a received event.
func (l *Ledger) Note(key int, seq uint64) bool { return l.note(key, seq) }

// Counts returns distinct, duplicates and disordered.
func (l *Ledger) Counts() [3]uint64 { return [3]uint64{l.seen, l.duplicates, l.disordered} }

// Lost counts the missing of the first n of a key.
func (l *Ledger) Lost(key int, n uint64) uint64 { return l.lost(key, n) }

// Responses reads answers from a connection until an error: status, body and
// whether the connection ends.
func Responses(nc net.Conn) (statuses []int, bodies []string, last error) {
	c := &conn{nc: nc, buf: make([]byte, 16)} // small, so that it grows and wraps
	for {
		r, err := c.read()
		if err != nil {
			return statuses, bodies, err
		}
		statuses, bodies = append(statuses, r.status), append(bodies, string(r.body))
		if r.close {
			return statuses, bodies, nil
		}
	}
}

// Stamp is what an event's data says of itself.
type Stamp struct {
	Run  string
	Key  int
	Seq  uint64
	Sent time.Time
}

// Body is an event's data of the given size with its stamp set.
func (s Stamp) Body(size int) []byte {
	b, seqAt, sentAt := appendBody(nil, s.Run, s.Key, size)
	putDigits(b[seqAt:seqAt+seqLen], s.Seq)
	putDigits(b[sentAt:sentAt+sentLen], uint64(s.Sent.UnixNano()))
	return b
}

// Stamps finds all stamps of a run.
func Stamps(run string, b []byte) (keys []int, seqs []uint64, sent []time.Time) {
	s := newScanner(run)
	for {
		st, rest, ok := s.next(b)
		if !ok {
			return keys, seqs, sent
		}
		keys, seqs, sent = append(keys, st.key), append(seqs, st.seq), append(sent, st.sent)
		b = rest
	}
}

// ErrProtocol is the error for an answer that is not HTTP.
var ErrProtocol = errProtocol

// RoundTripper sends the same request over one connection again and again.
func RoundTripper(nc net.Conn) func(now time.Time) error {
	c := &conn{nc: nc, buf: make([]byte, readBuffer)}
	p := &pump{Load: Load{Size: 256}, run: "0a1b2c3d"}
	r := p.request(&stream{subject: "load.publish"})
	return func(now time.Time) error {
		_, err := c.roundTrip(r.stamped(now), now)
		return err
	}
}
