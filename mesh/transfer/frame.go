package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// frame is a stretch of the exporter's stream: every event that the link wants
// from (After, UpTo]. An empty one is a sign of life.
type frame struct {
	After, UpTo uint64
	Pending     uint64 // wanted events behind UpTo
	Acks        uint64 // acknowledgements that have reached the exporter
	Events      []record
}

// record is one event as the exporter has it stored.
type record struct {
	Seq     uint64 // in the exporter's stream
	At      int64  // when it was stored there, Unix ns
	Subject string // on NATS, ev.<origin>.…
	Header  []byte // lines as package wire takes them
	Data    []byte

	origin string // site in Subject; set when it was checked
	place  place  // in the stream of its origin; nothing if it does not say
}

// frameVersion is the first byte of a frame.
const frameVersion = 2

// appendHead writes all of a frame but its events, of which there are count.
func (f *frame) appendHead(b []byte, count int) []byte {
	b = append(b, frameVersion)
	for _, v := range [...]uint64{f.After, f.UpTo, f.Pending, f.Acks, uint64(count)} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// appendRecord writes one event: sequence, time, subject, header and data. Each
// text is preceded by its length.
func appendRecord(b []byte, r record) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(b, r.Seq), uint64(r.At))
	b = appendText(b, r.Subject)
	b = append(binary.AppendUvarint(b, uint64(len(r.Header))), r.Header...)
	b = binary.AppendUvarint(b, uint64(len(r.Data)))
	return append(b, r.Data...)
}

// appendHeader writes those headers of a message that cross, but one, as lines.
func appendHeader(b []byte, h map[string][]string, but string) []byte {
	for name, values := range h {
		if name == but || !crosses(name) {
			continue
		}
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// crosses: the server's own headers are commands and marks of the stream where
// the event was stored; only its identity and its life time go with it.
func crosses[T string | []byte](header T) bool {
	return len(header) < 5 || !strings.EqualFold(string(header[:5]), "Nats-") || string(header) == "Nats-Msg-Id" || string(header) == "Nats-TTL"
}

// A frame travels in one message, or in several if it is larger than the server
// lets pass: each begins with whether more follow (1) or not (0), and how many
// bytes of the frame came before.

// pieces cuts a frame into messages of at most size bytes.
func pieces(b []byte, size int) [][]byte {
	const head = 1 + binary.MaxVarintLen64
	var out [][]byte
	for at := 0; ; {
		n := min(len(b)-at, size-head)
		m := make([]byte, 1, head+n)
		m = append(binary.AppendUvarint(m, uint64(at)), b[at:at+n]...)
		if at += n; at < len(b) {
			m[0] = 1
		}
		out = append(out, m)
		if at == len(b) {
			return out
		}
	}
}

// maxFrame bounds a frame: the largest event, its subject and its headers.
const maxFrame = 64 << 20

// assembly puts the pieces of a frame together.
type assembly struct{ b []byte }

// add takes a message and returns the frame when it is whole.
func (a *assembly) add(m []byte) (whole []byte, err error) {
	r := reader{b: m}
	more, at := r.byte(), r.num()
	if r.bad || more > 1 || at != uint64(len(a.b)) || len(a.b)+len(r.b) > maxFrame {
		return nil, fmt.Errorf("%w: a piece is missing", errFrame)
	}
	if more == 0 && at == 0 {
		return r.b, nil
	}
	a.b = append(a.b, r.b...)
	if more == 1 {
		return nil, nil
	}
	whole, a.b = a.b, nil
	return whole, nil
}

var errFrame = errors.New("damaged frame")

// readFrame decodes a frame: its events follow each other and lie within it.
// Their headers and data are parts of b.
func readFrame(b []byte) (frame, error) {
	r := reader{b: b}
	if v := r.byte(); v != frameVersion {
		return frame{}, fmt.Errorf("%w: version %d, want %d", errFrame, v, frameVersion)
	}
	f := frame{After: r.num(), UpTo: r.num(), Pending: r.num(), Acks: r.num()}
	n := r.num()
	if n > frameEvents {
		return frame{}, fmt.Errorf("%w: %d events, at most %d", errFrame, n, frameEvents)
	}
	f.Events = make([]record, 0, n)
	last := f.After
	for range n {
		rec := record{Seq: r.num(), At: int64(r.num()), Subject: string(r.text())}
		rec.Header = r.text()
		rec.Data = r.text()
		if rec.Seq <= last || rec.Seq > f.UpTo {
			return frame{}, fmt.Errorf("%w: event %d after %d in a frame up to %d", errFrame, rec.Seq, last, f.UpTo)
		}
		last = rec.Seq
		f.Events = append(f.Events, rec)
	}
	if r.bad || len(r.b) > 0 || f.UpTo < f.After {
		return frame{}, errFrame
	}
	return f, nil
}

// reader takes parts off a frame; bad stays set once something is missing.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) num() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) text() []byte {
	n := r.num()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}
