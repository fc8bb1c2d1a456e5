package chaos

import (
	"math/bits"
	"sync"
)

// set holds numbers of events: a bit for each, since a run has millions.
type set struct {
	mu   sync.Mutex
	bits []uint64 // guarded by mu
	n    uint64   // guarded by mu
	next uint64   // guarded by mu: one more than the highest
}

// add reports whether n was not in the set.
func (s *set) add(n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uint64(len(s.bits)) <= n/64 {
		s.bits = append(s.bits, 0)
	}
	if s.bits[n/64]&(1<<(n%64)) != 0 {
		return false
	}
	s.bits[n/64] |= 1 << (n % 64)
	s.n++
	s.next = max(s.next, n+1)
	return true
}

func (s *set) has(n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return n/64 < uint64(len(s.bits)) && s.bits[n/64]&(1<<(n%64)) != 0
}

func (s *set) count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// end is one more than the highest number, 0 of an empty set.
func (s *set) end() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// without lists the first most numbers that are here and not in other, and
// tells how many there are.
func (s *set) without(other *set, most int) (first []uint64, n uint64) {
	s.mu.Lock()
	mine := append([]uint64(nil), s.bits...)
	s.mu.Unlock()
	other.mu.Lock()
	for i := range min(len(mine), len(other.bits)) {
		mine[i] &^= other.bits[i]
	}
	other.mu.Unlock()
	for i, w := range mine {
		n += uint64(bits.OnesCount64(w))
		for ; w != 0 && len(first) < most; w &= w - 1 {
			first = append(first, uint64(i)*64+uint64(bits.TrailingZeros64(w)))
		}
	}
	return first, n
}
