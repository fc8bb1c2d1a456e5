package gateway

import (
	"strconv"
	"sync"

	"weft.dev/weft/internal/httpd"
)

// Frames are built by hand: one event is encoded once, and a frame is its bytes
// between a short prefix and a brace.

var frameHeartbeat = []byte(`{"t":"hb"}`)

type frameBuffer struct{ b []byte }

var frames = sync.Pool{New: func() any { return &frameBuffer{make([]byte, 0, 1<<10)} }}

func (f *frameBuffer) release() {
	if cap(f.b) <= keepFrame {
		frames.Put(f)
	}
}

// send writes what a step brought, in its order.
func (s *session) send(sub *wsSub, st step) error {
	f := frames.Get().(*frameBuffer)
	defer f.release()
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if sub.gone {
		return nil
	}
	if st.parked {
		s.gw.metrics.parks.Inc()
	}
	if st.gap != nil {
		s.gw.metrics.gaps.WithLabelValues(st.gap.why).Inc()
		f.b = appendGap(f.b[:0], sub.feed.number, st.gap)
		if err := s.writeLocked(f.b); err != nil {
			return err
		}
	}
	if err := s.sendEvents(f, sub.feed.number, st.events); err != nil {
		return err
	}
	if st.live {
		f.b = appendLive(f.b[:0], sub.feed.number, sub.pos)
		return s.writeLocked(f.b)
	}
	return nil
}

// sendEvents writes events one a frame, or as evs frames for a client that takes
// them. Called with wmu.
func (s *session) sendEvents(f *frameBuffer, feed uint64, events []*entry) error {
	for len(events) > 0 {
		n := 1
		if s.batch && len(events) > 1 {
			f.b, n = appendBatch(f.b[:0], feed, events)
		} else {
			f.b = appendEvent(f.b[:0], feed, events[0])
		}
		if err := s.writeLocked(f.b); err != nil {
			return err
		}
		s.gw.metrics.sent(events[:n], len(f.b))
		events = events[n:]
	}
	return nil
}

// sent counts events that one write has carried and lets their spans know.
func (m *metrics) sent(events []*entry, bytes int) {
	m.delivered.Add(float64(len(events)))
	m.bytes.Add(float64(bytes))
	m.frames.Inc()
	for _, e := range events {
		if e.deliver != nil {
			e.deliver.done()
		}
	}
}

// appendEvent: {"t":"ev","s":17,"p":"1:10235","tp":"00-…","e":{…}}
func appendEvent(b []byte, feed uint64, e *entry) []byte {
	b = append(b, `{"t":"ev","s":`...)
	b = strconv.AppendUint(b, feed, 10)
	b = append(b, `,"p":`...)
	b = appendPosition(b, e.Seq)
	if e.deliver != nil {
		b = append(b, `,"tp":"`...)
		b = append(b, e.deliver.traceparent...)
		b = append(b, '"')
	}
	b = append(b, `,"e":`...)
	b = append(b, e.json()...)
	return append(b, '}')
}

// appendBatch takes events until the frame is large enough and returns their
// number: {"t":"evs","s":17,"b":[["1:10235",{…}],["1:10236",{…},"00-…"]]}
func appendBatch(b []byte, feed uint64, events []*entry) ([]byte, int) {
	b = append(b, `{"t":"evs","s":`...)
	b = strconv.AppendUint(b, feed, 10)
	b = append(b, `,"b":`...)
	n := 0
	for n < len(events) && len(b) < frameSoft {
		e := events[n]
		b = append(b, "[,"[min(n, 1)], '[')
		b = appendPosition(b, e.Seq)
		b = append(b, ',')
		b = append(b, e.json()...)
		if e.deliver != nil {
			b = append(b, `,"`...)
			b = append(b, e.deliver.traceparent...)
			b = append(b, '"')
		}
		b = append(b, ']')
		n++
	}
	return append(b, "]}"...), n
}

func appendLive(b []byte, feed, pos uint64) []byte {
	b = append(b, `{"t":"live","s":`...)
	b = strconv.AppendUint(b, feed, 10)
	b = append(b, `,"p":`...)
	b = appendPosition(b, pos)
	return append(b, '}')
}

// appendGap leaves "to" out when it is unknown: the stream was made anew.
func appendGap(b []byte, feed uint64, g *gap) []byte {
	b = append(b, `{"t":"gap","s":`...)
	b = strconv.AppendUint(b, feed, 10)
	b = append(b, `,"from":`...)
	b = appendPosition(b, g.from)
	if g.to > 0 {
		b = append(b, `,"to":`...)
		b = appendPosition(b, g.to)
	}
	b = append(b, `,"why":"`...)
	b = append(b, g.why...)
	return append(b, `"}`...)
}

// appendPosition: "1:10235"
func appendPosition(b []byte, seq uint64) []byte {
	b = append(b, '"')
	b = append(b, streamIndex...)
	b = append(b, ':')
	b = strconv.AppendUint(b, seq, 10)
	return append(b, '"')
}

// failure is an err frame.
type failure struct {
	id    string // of the frame it answers, if that had one
	code  string
	msg   string
	retry bool
	after int // milliseconds
}

func (e failure) append(b []byte) []byte {
	b = append(b, `{"t":"err"`...)
	if e.id != "" {
		b = append(b, `,"id":`...)
		b = httpd.AppendString(b, e.id)
	}
	b = append(b, `,"code":"`...)
	b = append(b, e.code...)
	b = append(b, '"')
	if e.retry {
		b = append(b, `,"retry":true,"after":`...)
		b = strconv.AppendInt(b, int64(e.after), 10)
	}
	b = append(b, `,"msg":`...)
	b = httpd.AppendString(b, e.msg)
	return append(b, '}')
}
