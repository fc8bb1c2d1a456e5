package sidecar

import (
	"time"

	"weft.dev/weft/internal/bus"
)

// maxSettled is how many settled events a subscription remembers: what may be
// in flight at one sidecar several times over.
const maxSettled = 1024

// settled remembers the events that were settled last. An acknowledgement that
// a dying node did not store makes it send the event again; the app is not
// called with it twice while its sidecar lives.
type settled struct {
	ring [maxSettled]uint64
	next int
	seqs map[uint64]mark
}

// mark identifies an event beside its sequence, which begins anew when a stream
// is made anew.
type mark struct {
	key string
	at  time.Time
}

func (s *settled) add(d *bus.Delivery) {
	if s.seqs == nil {
		s.seqs = make(map[uint64]mark)
	}
	if _, known := s.seqs[d.Seq]; known {
		s.seqs[d.Seq] = mark{d.Key(), d.StoredAt}
		return
	}
	delete(s.seqs, s.ring[s.next])
	s.ring[s.next] = d.Seq
	s.seqs[d.Seq] = mark{d.Key(), d.StoredAt}
	s.next = (s.next + 1) % maxSettled
}

func (s *settled) has(d *bus.Delivery) bool {
	m, ok := s.seqs[d.Seq]
	return ok && m.key == d.Key() && m.at.Equal(d.StoredAt)
}
