package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
)

const (
	maxLast    = 10_000          // events of start "last"
	epochSlack = 5 * time.Second // clocks of two streams: a fall-back by time begins this much earlier
)

type startKind int

const (
	startLive startKind = iota
	startAll
	startAfter
	startSeq
	startTime
	startLast
)

// start says where a subscription begins.
type start struct {
	kind   startKind
	cursor event.Cursor
	seq    uint64
	last   int
	at     time.Time
}

const startWant = "one of live, all, after, last, seq, time, ago"

// parseStart reads the JSON form of a start; none is live.
func parseStart(data []byte, now time.Time) (start, error) {
	if len(data) == 0 || string(data) == "null" {
		return start{}, nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || len(members) != 1 {
		return start{}, event.Reject("start", "an object with "+startWant)
	}
	for name, raw := range members {
		text := string(raw)
		var s string
		if json.Unmarshal(raw, &s) == nil {
			text = s
		}
		return startOf(name, text, now)
	}
	return start{}, nil
}

// parseStartText reads the form of a query parameter: live, all, last:50,
// after:CURSOR. None is live.
func parseStartText(s string, now time.Time) (start, error) {
	if s == "" {
		return start{}, nil
	}
	name, value, ok := strings.Cut(s, ":")
	if !ok && (name == "live" || name == "all") {
		value = "true"
	}
	return startOf(name, value, now)
}

func startOf(name, value string, now time.Time) (start, error) {
	switch name {
	case "live", "all":
		if value != "true" {
			return start{}, event.Reject("start."+name, "true")
		}
		if name == "all" {
			return start{kind: startAll}, nil
		}
		return start{}, nil
	case "after":
		c, err := event.ParseCursor(value)
		if err == nil && c.Stream != streamName {
			err = event.Reject("start.after", "a cursor of the stream "+streamName)
		}
		return start{kind: startAfter, cursor: c}, err
	case "seq":
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil || n == 0 {
			return start{}, event.Reject("start.seq", "a sequence from 1")
		}
		return start{kind: startSeq, seq: n}, nil
	case "last":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > maxLast {
			return start{}, event.Reject("start.last", "a number from 1 to "+strconv.Itoa(maxLast))
		}
		return start{kind: startLast, last: n}, nil
	case "time":
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return start{}, event.Reject("start.time", "an RFC 3339 time such as 2026-01-02T15:04:05Z")
		}
		return start{kind: startTime, at: at}, nil
	case "ago":
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return start{}, event.Reject("start.ago", "a duration such as 15m")
		}
		return start{kind: startTime, at: now.Add(-d)}, nil
	}
	return start{}, event.Reject("start", startWant)
}

// seek sets the position of a subscription that is on its feed and not yet
// read. The gap, if any, is what the start asked for and cannot have.
func (s *subscription) seek(ctx context.Context, st start) (*gap, error) {
	epoch, head, err := s.tail.await(ctx)
	if err != nil {
		return nil, err
	}
	s.epoch, s.pos = epoch, head
	if st.kind == startLive {
		return nil, nil
	}
	info, err := s.tail.log.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the stream: %w", err)
	}
	oldest := max(info.First, 1) - 1
	switch st.kind {
	case startAll:
		s.pos = oldest
	case startSeq:
		s.pos = min(st.seq-1, info.Last)
	case startTime:
		s.pos, err = s.seekTime(ctx, st.at, info)
	case startLast:
		s.pos, err = s.seekLast(ctx, st.last, head, oldest)
	case startAfter:
		return s.seekCursor(ctx, st.cursor, info)
	}
	return nil, err
}

// seekCursor takes the cursor's sequence when it is of this very stream, else
// its time.
func (s *subscription) seekCursor(ctx context.Context, c event.Cursor, info bus.StreamInfo) (*gap, error) {
	if c.Epoch == s.epoch && c.Seq <= info.Last {
		s.pos = c.Seq
		oldest := max(info.First, 1)
		if c.Seq+1 < oldest {
			s.pos = oldest - 1
			return &gap{from: c.Seq + 1, to: oldest - 1, why: gapRetention}, nil
		}
		return nil, nil
	}
	s.pos = max(info.First, 1) - 1
	lost := &gap{from: c.Seq + 1, why: gapEpoch}
	if c.Time.IsZero() {
		return lost, nil
	}
	at := c.Time.Add(-epochSlack)
	pos, err := s.seekTime(ctx, at, info)
	if err != nil {
		return nil, err
	}
	if pos == s.pos && info.First > 1 {
		return lost, nil // everything that is left is younger: what was before it is unknown
	}
	s.pos = pos
	return nil, nil
}

// seekTime is the position before the first event stored at or after at. Storage
// times ascend within a stream, so it searches by halves.
func (s *subscription) seekTime(ctx context.Context, at time.Time, info bus.StreamInfo) (uint64, error) {
	lo, hi := max(info.First, 1)-1, info.Last
	for lo < hi {
		mid := lo + (hi-lo)/2
		events, _, err := s.tail.page(ctx, bus.PageConfig{Pattern: ">", After: mid, UpTo: info.Last, Max: 1})
		if err != nil {
			return 0, err
		}
		if len(events) > 0 && events[0].StoredAt.Before(at) {
			lo = events[0].Seq
		} else {
			hi = mid
		}
	}
	return lo, nil
}

// seekLast is the position before the n newest events of the feed. It looks
// back over growing stretches of the stream.
func (s *subscription) seekLast(ctx context.Context, n int, head, oldest uint64) (uint64, error) {
	s.tail.mu.RLock()
	if w := s.feed.entries; len(w) >= n {
		defer s.tail.mu.RUnlock()
		return w[len(w)-n].Seq - 1, nil
	}
	s.tail.mu.RUnlock()
	for span := uint64(n); ; span *= 8 {
		from := oldest
		if head > oldest+span {
			from = head - span
		}
		newest, err := s.newest(ctx, n, from, head)
		if err != nil {
			return 0, err
		}
		if len(newest) == n {
			return newest[0] - 1, nil
		}
		if from == oldest {
			return oldest, nil
		}
	}
}

// newest is the sequences of the last n events of the feed in from..head.
func (s *subscription) newest(ctx context.Context, n int, from, head uint64) ([]uint64, error) {
	var seqs []uint64
	for from < head {
		events, next, err := s.tail.page(ctx, bus.PageConfig{Pattern: s.feed.pattern, After: from, UpTo: head, Max: pageSize})
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			if s.feed.filter.Match(&entry{Stored: ev.Delivered()}) {
				seqs = append(seqs, ev.Seq)
			}
		}
		if len(events) == 0 || next <= from {
			break
		}
		from = next
		if len(seqs) > 2*n {
			seqs = append(seqs[:0], seqs[len(seqs)-n:]...)
		}
	}
	return seqs[max(0, len(seqs)-n):], nil
}
