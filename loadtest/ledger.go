package loadtest

import "sync"

// ledger counts what one receiver saw of the sequences of several keys. Sequences
// have no holes, so what is missing below the number of accepted events is lost.
type ledger struct {
	mu         sync.Mutex
	keys       map[int]*sequence // guarded by mu
	duplicates uint64            // guarded by mu
	disordered uint64            // guarded by mu: came after a later one of the same key
	seen       uint64            // guarded by mu: distinct
}

// sequence is what was seen of one key: everything below base, and the bits
// from base on.
type sequence struct {
	base uint64
	bits []uint64
	high uint64 // one more than the highest seen
}

func newLedger() *ledger { return &ledger{keys: make(map[int]*sequence)} }

// note takes one received event and reports whether it came for the first time.
func (l *ledger) note(key int, seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.keys[key]
	if s == nil {
		s = &sequence{}
		l.keys[key] = s
	}
	if s.has(seq) {
		l.duplicates++
		return false
	}
	if seq < s.high {
		l.disordered++
	}
	s.set(seq)
	l.seen++
	return true
}

// lost counts what is missing of the first n events of a key.
func (l *ledger) lost(key int, n uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.keys[key]
	if s == nil {
		return n
	}
	missing := uint64(0)
	for seq := s.base; seq < n; seq++ {
		if !s.has(seq) {
			missing++
		}
	}
	return missing
}

func (s *sequence) has(seq uint64) bool {
	if seq < s.base {
		return true
	}
	i := (seq - s.base) / 64
	return i < uint64(len(s.bits)) && s.bits[i]&(1<<((seq-s.base)%64)) != 0
}

// maxAhead bounds the memory of a sequence whose start never comes: 8 MiB.
const maxAhead = 64 << 20

func (s *sequence) set(seq uint64) {
	i := (seq - s.base) / 64
	if i >= maxAhead/64 {
		return // far beyond anything sent: a foreign stamp
	}
	for uint64(len(s.bits)) <= i {
		s.bits = append(s.bits, 0)
	}
	s.bits[i] |= 1 << ((seq - s.base) % 64)
	s.high = max(s.high, seq+1)
	full := 0
	for full < len(s.bits) && s.bits[full] == ^uint64(0) {
		full++
	}
	if full > 0 {
		s.bits = append(s.bits[:0], s.bits[full:]...)
		s.base += uint64(full) * 64
	}
}
