package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// volume is a file system in memory that holds a node's data and can be filled.
type volume struct {
	dir   string
	bytes int64
}

// diskBytes is how large a node's volume is: what a run stores three times over,
// in the stream, in the log of the cluster and while that is rewritten, and room
// for the node's other files. Each event costs about diskEvent besides its data.
const (
	diskLeast = 256 << 20
	diskEvent = 600
)

func diskBytes(cfg Config) int64 {
	return diskLeast + int64(3*cfg.Rate*cfg.Duration.Seconds())*int64(cfg.Size+diskEvent)
}

// withoutDisks leaves the faults out that need volumes. All others are those that
// the seed decides, with volumes or without.
func withoutDisks(plan []Fault) []Fault {
	return slices.DeleteFunc(plan, func(f Fault) bool { return f.Kind == FullDisk })
}

// addVolumes gives the nodes whose disks are to be filled one of their own.
func (w *world) addVolumes(plan []Fault) error {
	for _, f := range plan {
		if f.Kind != FullDisk {
			continue
		}
		n := w.site(f.Target).nodes[f.Node]
		if n.disk != nil {
			continue
		}
		v := &volume{n.data(), diskBytes(w.cfg)}
		if err := os.MkdirAll(v.dir, 0o700); err != nil {
			return err
		}
		if err := v.mount(); err != nil {
			return fmt.Errorf("mount the disk of node %s: %w", n.name, err)
		}
		n.disk = v
	}
	return nil
}

// mountable tells whether this process may mount a volume, and why not.
func mountable(dir string) error {
	dir, err := os.MkdirTemp(dir, "disk-*")
	if err != nil {
		return err
	}
	v := volume{dir, 1 << 20}
	if err := v.mount(); err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return errors.Join(v.unmount(), os.Remove(dir))
}

// refill is how often space that the node has freed is taken away again.
const refill = 100 * time.Millisecond

// fill keeps the volume full until ctx ends, and frees it then. It is made as
// small as what it holds, which takes no memory, as filling it would.
func (v *volume) fill(ctx context.Context) (err error) {
	full := false
	for ctx.Err() == nil {
		used, usedErr := v.used()
		if err = errors.Join(usedErr, v.resize(max(used, 1))); err == nil {
			full = true
			_ = sleep(ctx, refill)
		} // else the node has just written more
	}
	if full {
		err = nil
	}
	return errors.Join(err, v.resize(v.bytes))
}

// fillDisk fills a node's disk for a while. The node must tell that it is full.
func (r *run) fillDisk(ctx context.Context, o *Outcome, n *node) error {
	o.Detail = n.name
	during, end := context.WithTimeout(ctx, o.For)
	defer end()
	filled := make(chan error, 1)
	go func() { filled <- n.disk.fill(during) }() // ends with during
	told := poll(during, 50*time.Millisecond, func() bool {
		err := n.ready(during)
		return err != nil && strings.Contains(err.Error(), "disk is full")
	})
	err := <-filled // after o.For
	if !told && ctx.Err() == nil {
		err = errors.Join(err, fmt.Errorf("node %s was ready on a full disk for %s", n.name, o.For))
	}
	return err
}
