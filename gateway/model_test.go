package gateway_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway"
)

// model is one subscriber and what it must see.
type model struct {
	pattern string
	pos     uint64 // everything up to here was seen or told as a gap
	seen    map[uint64]bool
	gaps    [][2]uint64
	parked  int
	last    uint64 // its last event
}

// TestModel publishes at random while subscribers with small tails join, stall,
// leave and resume; retention takes the oldest events away meanwhile. In the end
// each must have seen, once and in order, every event of its pattern that no
// gap was told for, and gaps may only name what retention has removed.
func TestModel(t *testing.T) {
	for _, purging := range []bool{false, true} {
		t.Run(fmt.Sprintf("purging=%v", purging), func(t *testing.T) { runModel(t, purging) })
	}
}

func runModel(t *testing.T, purging bool) {
	events, clients := 6000, 24
	if testing.Short() {
		events, clients = 1500, 8
	}
	m := newMemory()
	addr := start(t, m, func(c *gateway.Config, _ *gateway.Deps) { c.Tail.Events = 32 })
	subjects := []string{"a.x", "a.y", "b.x", "b.y.z", "c"}
	end := []string{"a.x", "b.y.z", "c"}       // the last events: one at least for each pattern
	paths := make([]string, events+1+len(end)) // by sequence; "" is a message that is no event
	var purged uint64
	var wg sync.WaitGroup
	wg.Go(func() {
		for seq := 1; seq <= events; seq++ {
			path := subjects[rand.N(len(subjects))]
			if rand.N(20) == 0 {
				path = ""
			}
			paths[seq] = path
			m.append(path, event.Event{ID: strconv.Itoa(seq), Source: "/t", Type: "t"})
			if purging && rand.N(200) == 0 {
				purged = m.purge(uint64(rand.N(seq)))
			}
			if rand.N(10) == 0 {
				<-time.After(rand.N(time.Millisecond))
			}
		}
		for i, path := range end {
			paths[events+1+i] = path
			m.append(path, event.Event{ID: "end", Source: "/t", Type: "t"})
		}
	})
	patterns := map[string]uint64{">": 3, "a.*": 1, "*.x": 1, "b.>": 2, "c": 3}
	models := make([]*model, clients)
	names := slices.Collect(maps.Keys(patterns))
	for i := range models {
		name := names[i%len(names)]
		models[i] = &model{pattern: name, seen: make(map[uint64]bool), last: uint64(events) + patterns[name]}
		wg.Go(func() {
			for md := models[i]; md.pos < md.last && !t.Failed(); {
				md.connection(t, addr)
			}
		})
	}
	wg.Wait()
	total, parks := 0, 0
	for _, md := range models {
		md.check(t, paths, purged)
		total, parks = total+len(md.seen), parks+md.parked
	}
	t.Logf("%d deliveries, %d times behind the tail, %d subscribers", total, parks, clients)
}

// connection is one socket: it subscribes from the beginning or resumes, and
// leaves at random.
func (md *model) connection(t *testing.T, addr string) {
	var caps []string
	if rand.N(2) == 0 {
		caps = []string{"evs"}
	}
	c := dial(t, addr, caps...)
	defer c.Close()
	from := any(map[string]any{"all": true})
	if md.pos > 0 {
		from = map[string]any{"after": cursor("e1", md.pos)}
	}
	c.sub(map[string]any{"subject": md.pattern, "start": from})
	lives := 0
	for n := 1 + rand.N(400); n > 0 && md.pos < md.last; n-- {
		f := c.next()
		if !md.take(t, f) {
			return
		}
		if f.T == "live" {
			if lives++; lives > 1 {
				md.parked++
			}
		}
		if rand.N(50) == 0 {
			<-time.After(rand.N(20 * time.Millisecond))
		}
	}
}

// take applies one frame to the model.
func (md *model) take(t *testing.T, f frame) bool {
	switch f.T {
	case "ev":
		return md.event(t, f.P)
	case "evs":
		for _, item := range f.B {
			var p string
			if err := json.Unmarshal(item[0], &p); err != nil || !md.event(t, p) {
				return false
			}
		}
	case "gap":
		from, to := seqOf(f.From), seqOf(f.To)
		if from <= md.pos || to < from || f.Why != "retention" {
			t.Errorf("%s: gap %+v at %d", md.pattern, f, md.pos)
			return false
		}
		md.gaps = append(md.gaps, [2]uint64{from, to})
		md.pos = to
	case "live":
		md.pos = max(md.pos, seqOf(f.P))
	default:
		t.Errorf("unexpected %+v", f)
		return false
	}
	return true
}

func (md *model) event(t *testing.T, p string) bool {
	seq := seqOf(p)
	if seq <= md.pos || md.seen[seq] {
		t.Errorf("%s: event %d at %d: twice or out of order", md.pattern, seq, md.pos)
		return false
	}
	md.seen[seq], md.pos = true, seq
	return true
}

func seqOf(p string) uint64 {
	seq, _ := strconv.ParseUint(strings.TrimPrefix(p, "1:"), 10, 64)
	return seq
}

func (md *model) check(t *testing.T, paths []string, purged uint64) {
	t.Helper()
	told := func(seq uint64) bool {
		for _, g := range md.gaps {
			if seq >= g[0] && seq <= g[1] {
				return true
			}
		}
		return false
	}
	for _, g := range md.gaps {
		if g[1] > purged {
			t.Errorf("%s: gap %v, but only %d were removed", md.pattern, g, purged)
		}
	}
	for seq := uint64(1); seq < uint64(len(paths)); seq++ {
		want := paths[seq] != "" && event.Match(md.pattern, paths[seq])
		switch {
		case md.seen[seq] && !want:
			t.Fatalf("%s: event %d on %q", md.pattern, seq, paths[seq])
		case want && !md.seen[seq] && !told(seq) && seq > md.firstStart(purged):
			t.Fatalf("%s: event %d is missing, removed up to %d, gaps %v", md.pattern, seq, purged, md.gaps)
		}
	}
}

// firstStart is where "all" began: what retention removed before the first
// subscription is nobody's gap.
func (md *model) firstStart(purged uint64) uint64 {
	first := uint64(0)
	for seq := range md.seen {
		if first == 0 || seq < first {
			first = seq
		}
	}
	for _, g := range md.gaps {
		first = min(first, g[0])
	}
	return min(purged, max(first, 1)-1)
}
