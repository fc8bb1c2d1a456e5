package webhook

import "weft.dev/weft/event"

// recent remembers the sequences acknowledged last, for acknowledgements that
// got lost.
type recent struct {
	set  map[uint64]struct{}
	ring []uint64
	next int
}

func (r *recent) has(seq uint64) bool { _, ok := r.set[seq]; return ok }

func (r *recent) add(seq uint64) {
	if r.set == nil {
		r.set, r.ring = make(map[uint64]struct{}, eventsPending), make([]uint64, eventsPending)
	}
	delete(r.set, r.ring[r.next])
	r.ring[r.next] = seq
	r.set[seq] = struct{}{}
	r.next = (r.next + 1) % len(r.ring)
}

// index finds the tracks for a subject by its first token.
type index struct {
	stale   bool // tracks changed since the last rebuild
	byToken map[string][]entry
	any     []entry // first token is a wildcard
	found   []*track
}

type entry struct {
	pattern string
	t       *track
}

// match is valid until the next call.
func (x *index) match(subject string) []*track {
	x.found = x.found[:0]
	for _, list := range [2][]entry{x.byToken[firstToken(subject)], x.any} {
		for _, en := range list {
			if event.Match(en.pattern, subject) {
				x.found = append(x.found, en.t)
			}
		}
	}
	return x.found
}

func firstToken(s string) string {
	for i := range len(s) {
		if s[i] == '.' {
			return s[:i]
		}
	}
	return s
}

func (x *index) rebuild(tracks map[string]*track) {
	*x = index{byToken: map[string][]entry{}}
	for _, t := range tracks {
		for _, p := range t.ep.Subjects {
			if tok := firstToken(p); tok == "*" || tok == ">" {
				x.any = append(x.any, entry{p, t})
			} else {
				x.byToken[tok] = append(x.byToken[tok], entry{p, t})
			}
		}
	}
}
