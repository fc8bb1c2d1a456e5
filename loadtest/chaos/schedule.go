package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what happens to a site or a link.
type Kind string

// The faults. All kills are by SIGKILL.
const (
	KillLeader     Kind = "kill-leader"     // the node that leads EVENTS
	KillNode       Kind = "kill-node"       // any node
	KillSite       Kind = "kill-site"       // all nodes of a site at once
	RollingRestart Kind = "rolling-restart" // each node in turn, in good order
	Pause          Kind = "pause"           // a node stands still, and its clock jumps when it goes on
	FullDisk       Kind = "full-disk"       // the first node's disk has no space left; where a disk of its own can be mounted
	Cut            Kind = "cut"             // a link's connections are reset and refused
	BlackHole      Kind = "black-hole"      // a link's connections stand and carry nothing
	Slow           Kind = "slow"            // a link is delayed and narrow
)

// Fault is one entry of the schedule.
type Fault struct {
	At     time.Duration // from the start of publishing
	Kind   Kind
	Target string // a site, or a link: two sites
	For    time.Duration
	Node   int  // which node, from 0
	Reset  bool // connections held by a black hole are reset at its end
	Delay  time.Duration
	Speed  float64
}

func (f Fault) onLink() bool { return f.Kind == Cut || f.Kind == BlackHole || f.Kind == Slow }

// outage tells whether the site cannot take events while the fault lasts.
func (f Fault) outage(edges []string) bool {
	return f.Kind == KillSite || !f.onLink() && slices.Contains(edges, f.Target)
}

// String is the schedule's line.
func (f Fault) String() string {
	s := fmt.Sprintf("%6.1f s  %-15s %s", f.At.Seconds(), f.Kind, f.Target)
	switch f.Kind {
	case KillNode, Pause, FullDisk:
		s += fmt.Sprintf(", node %d", f.Node+1)
	case BlackHole:
		if f.Reset {
			s += ", reset at the end"
		}
	case Slow:
		s += fmt.Sprintf(", %s each way, %.0f KB/s", f.Delay, f.Speed/1e3)
	case KillLeader, KillSite, RollingRestart, Cut:
	}
	if f.For > 0 {
		s += fmt.Sprintf(", for %.1f s", f.For.Seconds())
	}
	return s
}

// span bounds how long a kind lasts, and how long its target is then left alone.
var spans = map[Kind]struct{ least, most, rest time.Duration }{
	KillLeader:     {time.Second, 6 * time.Second, 15 * time.Second},
	KillNode:       {time.Second, 6 * time.Second, 12 * time.Second},
	KillSite:       {time.Second, 3 * time.Second, 20 * time.Second},
	RollingRestart: {0, 0, 40 * time.Second},
	Pause:          {2 * time.Second, 10 * time.Second, 12 * time.Second},
	FullDisk:       {3 * time.Second, 8 * time.Second, 15 * time.Second},
	Cut:            {2 * time.Second, 12 * time.Second, 8 * time.Second},
	BlackHole:      {4 * time.Second, 15 * time.Second, 10 * time.Second},
	Slow:           {5 * time.Second, 15 * time.Second, 6 * time.Second},
}

// Kinds names all kinds of faults, for errors and help.
func Kinds() string {
	var out []string
	for k := range spans {
		out = append(out, string(k))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// The faults begin when all publishers run, and leave time for their end.
const (
	firstFault = 5 * time.Second
	lastFault  = 15 * time.Second // before the end
)

// plan draws the schedule from the seed.
func plan(cfg Config) []Fault {
	d := &draw{cfg: cfg, r: rand.New(rand.NewPCG(cfg.Seed, 0)), busy: map[string]time.Duration{}}
	d.cores, d.edges = siteNames(cfg)
	for _, pair := range linkNames(cfg) {
		d.links = append(d.links, pair[0]+"-"+pair[1])
	}
	var out []Fault
	room := cfg.Duration - firstFault - lastFault
	for i := range cfg.Faults {
		step := room / time.Duration(cfg.Faults)
		at := firstFault + time.Duration(i)*step + time.Duration(d.r.Float64()*0.8*float64(step))
		f, ok := d.fault(at)
		if !ok { // all targets are busy: as soon as the first is free
			f, ok = d.fault(d.free())
		}
		if ok && f.At <= cfg.Duration-lastFault {
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return out
}

// draw is the schedule while it is drawn.
type draw struct {
	cfg          Config
	r            *rand.Rand
	cores, edges []string
	links        []string
	deck         []Kind
	busy         map[string]time.Duration // by target: until when
}

// kinds are those of the run; some more often than others.
func (d *draw) kinds() []Kind {
	if d.cfg.Only != "" {
		return []Kind{d.cfg.Only}
	}
	kinds := []Kind{KillSite, Pause, FullDisk}
	if d.cfg.Nodes > 1 {
		kinds = append(kinds, KillLeader, KillLeader, KillNode, RollingRestart)
	}
	if len(d.links) > 0 {
		kinds = append(kinds, Cut, Cut, BlackHole, BlackHole, Slow)
	}
	return kinds
}

// fault draws kinds like cards, so that a short run has all of them, and takes
// the first that a target is free for.
func (d *draw) fault(at time.Duration) (Fault, bool) {
	if len(d.deck) == 0 {
		d.deck = d.kinds()
		d.r.Shuffle(len(d.deck), func(i, j int) { d.deck[i], d.deck[j] = d.deck[j], d.deck[i] })
	}
	for i, kind := range d.deck {
		var free []string
		for _, t := range d.targets(kind) {
			if d.busy[t] <= at {
				free = append(free, t)
			}
		}
		if len(free) == 0 {
			continue
		}
		d.deck = slices.Delete(d.deck, i, i+1)
		return d.at(at, kind, free[d.r.IntN(len(free))]), true
	}
	return Fault{}, false
}

// free is when the first target of any kind left to draw is free.
func (d *draw) free() time.Duration {
	at := d.cfg.Duration
	for _, kind := range d.deck {
		for _, t := range d.targets(kind) {
			at = min(at, d.busy[t])
		}
	}
	return at
}

func (d *draw) targets(kind Kind) []string {
	switch kind {
	case Cut, BlackHole, Slow:
		return d.links
	case KillSite, Pause, FullDisk:
		return slices.Concat(d.cores, d.edges)
	case KillLeader, KillNode, RollingRestart:
	}
	return d.cores
}

func (d *draw) at(at time.Duration, kind Kind, target string) Fault {
	s := spans[kind]
	f := Fault{At: at.Round(100 * time.Millisecond), Kind: kind, Target: target}
	f.For = (s.least + time.Duration(d.r.Float64()*float64(s.most-s.least))).Round(100 * time.Millisecond)
	f.Node = d.r.IntN(d.cfg.Nodes)
	if slices.Contains(d.edges, target) || kind == FullDisk { // one disk in memory for each site is enough
		f.Node = 0
	}
	f.Reset = kind == BlackHole && d.r.IntN(2) == 0
	if kind == Slow {
		f.Delay = time.Duration(20+d.r.IntN(180)) * time.Millisecond
		f.Speed = float64(500+d.r.IntN(3500)) * 1e3
	}
	d.busy[target] = at + f.For + s.rest
	return f
}
