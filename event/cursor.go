package event

import (
	"strconv"
	"strings"
	"time"
)

// Cursor is a resume position: everything up to and including Seq was seen.
// Clients treat its text form as opaque.
type Cursor struct {
	Stream string
	Epoch  string    // changes when the stream is made anew
	Seq    uint64    // last sequence seen
	Time   time.Time // when that event was stored, for a fall-back by time; optional
}

// String is STREAM@epoch:seq, with /unixms appended when Time is set.
func (c Cursor) String() string {
	b := make([]byte, 0, 64)
	b = append(b, c.Stream...)
	b = append(b, '@')
	b = append(b, c.Epoch...)
	b = append(b, ':')
	b = strconv.AppendUint(b, c.Seq, 10)
	if !c.Time.IsZero() {
		b = append(b, '/')
		b = strconv.AppendInt(b, c.Time.UnixMilli(), 10)
	}
	return string(b)
}

// ParseCursor reads the text form; the error is a *FieldError for "cursor".
func ParseCursor(s string) (Cursor, error) {
	bad := rejected("cursor", "a cursor as Weft gave it, such as EVENTS@k3x:42")
	stream, rest, ok := strings.Cut(s, "@")
	if !ok || !token(stream) {
		return Cursor{}, bad
	}
	epoch, rest, ok := strings.Cut(rest, ":")
	if !ok || !token(epoch) {
		return Cursor{}, bad
	}
	num, ms, timed := strings.Cut(rest, "/")
	seq, err := strconv.ParseUint(num, 10, 64)
	if err != nil {
		return Cursor{}, bad
	}
	c := Cursor{Stream: stream, Epoch: epoch, Seq: seq}
	if timed {
		n, err := strconv.ParseInt(ms, 10, 64)
		if err != nil || n < 0 {
			return Cursor{}, bad
		}
		c.Time = time.UnixMilli(n)
	}
	return c, nil
}
