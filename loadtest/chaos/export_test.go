package chaos

import (
	"context"
	"time"
)

// Plan is the schedule of a run.
func Plan(cfg Config) []Fault { return plan(cfg) }

// OnLink tells whether the fault is one of a link.
func (f Fault) OnLink() bool { return f.onLink() }

// Rest is how long a fault and what follows it keep its target.
func (f Fault) Rest() time.Duration { return f.For + spans[f.Kind].rest }

// Free is a free address of loopback.
func Free() string { return newPorts().next() }

// Line is the network of one link, with a proxy for target.
type Line struct {
	*line
	Addr string
}

// NewLine makes a line to target.
func NewLine(target string) (Line, error) {
	l := newLine()
	addr, err := l.to(Free(), target)
	return Line{l, addr}, err
}

// The disturbances of a line.
func (l Line) Cut()                            { l.cut() }
func (l Line) Mend(ctx context.Context) error  { return l.mend(ctx) }
func (l Line) Hold()                           { l.hold() }
func (l Line) Release()                        { l.release() }
func (l Line) Reset()                          { l.reset() }
func (l Line) Slow(d time.Duration, s float64) { l.slow(d, s) }
func (l Line) Close()                          { l.close() }

// Judge holds what was seen, in order, against what was accepted of one
// publisher that sends batch events in a request.
func Judge(batch int, accepted, torn, seen []uint64) Row {
	p := newPublisher(&site{name: "a", nodes: []*node{{}}}, 0, Config{Batch: batch})
	for _, n := range accepted {
		p.acked.add(n)
	}
	for _, n := range torn {
		p.tear(n)
	}
	var t tracks
	for _, n := range seen {
		t.note(p.id(n))
	}
	row := Row{Site: "b", Origin: "a"}
	row.add(p, t.track(p.key()))
	return row
}

// Volume is a file system that can be filled.
type Volume struct{ *volume }

// NewVolume mounts a volume at dir until unmount is called.
func NewVolume(dir string, bytes int64) (v Volume, unmount func() error, err error) {
	v = Volume{&volume{dir, bytes}}
	return v, v.unmount, v.mount()
}

// Fill keeps the volume full until ctx ends.
func (v Volume) Fill(ctx context.Context) error { return v.fill(ctx) }

// Mountable tells whether volumes can be mounted here.
func Mountable(dir string) error { return mountable(dir) }

// WithoutDisks leaves the faults out that need volumes.
func WithoutDisks(plan []Fault) []Fault { return withoutDisks(plan) }
