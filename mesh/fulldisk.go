package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/run"
)

const (
	// diskEvery is how often free space is looked at: a full-speed load takes less
	// than the reserve in this time.
	diskEvery = 250 * time.Millisecond
	// diskReserve is the free space, in bytes, below which a node takes no events, or
	// reserveShare of the disk if that is less. The server closes its store in it:
	// a store that runs into the end of the disk must be opened anew.
	diskReserve  = 64 << 20
	reserveShare = 20
	// diskProbe is what a node writes before it takes events again, in bytes: quotas
	// and inodes can run out too, which free space does not tell.
	diskProbe = 256 << 10
	// reopenAfter is how long a store stays closed at least: the server may be closing
	// it by itself. It also spaces attempts to open it.
	reopenAfter = time.Second
	// closeTimeout is how long the node waits for the server to close its store. One
	// of several that was catching up may not get to it before the leader has sent
	// all, or ever: after stuckAfter the node ends, to be started again.
	closeTimeout = 3 * time.Second
	stuckAfter   = time.Minute
)

// errOpen: the server has not closed its store yet.
var errOpen = errors.New("the server is still closing it")

// disk keeps a node from running into the end of its disk, and gets it going
// again when there is space. A server that could not write refuses all further
// writes until its store is opened anew, which otherwise only a restart does.
type disk struct {
	node    *Node
	area    *staging      // set before the server starts; owned by watch once it runs
	noSpace chan struct{} // the server could not write; holds one value
	closing chan struct{} // closed when the server's closing of the store is over; owned by watch

	mu   sync.Mutex
	full error // guarded by mu: why no events are taken; nil if they are
}

func newDisk(n *Node) *disk { return &disk{node: n, noSpace: make(chan struct{}, 1)} }

// Trouble tells why the node takes no events although it runs; nil if it does.
func (n *Node) Trouble() error {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	return n.disk.full
}

// imports tells whether this node takes over the events of linked sites.
func (n *Node) imports() bool { return n.leads() && n.Trouble() == nil }

// diskStatus is the disk as others are told of it.
func (n *Node) diskStatus() *Disk {
	now := diskOf(n.Dir)
	if now != nil {
		now.Full = n.Trouble() != nil
	}
	return now
}

// reserve is what must stay free.
func reserve(of *Disk) uint64 { return min(diskReserve, of.Total/reserveShare) }

// await returns when there is room to start with: a server that finds none ends.
func (d *disk) await(ctx context.Context) error {
	for full := d.short(); full; full = !d.roomy() {
		d.set(ctx, true)
		if run.Pause(ctx, diskEvery); ctx.Err() != nil {
			return fmt.Errorf("wait for disk space: %w", ctx.Err())
		}
	}
	d.set(ctx, false)
	return nil
}

// watch looks at the disk until ctx ends.
func (d *disk) watch(ctx context.Context) error {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	var closed, roomySince time.Time // when the store was closed, or an attempt to open it failed; space came back
	for {
		failed := false
		select {
		case <-d.noSpace:
			failed = true
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		switch full := d.node.Trouble() != nil; {
		case !full && d.area.tight():
			d.stageOnDisk(ctx)
		case !full && (failed || d.short()):
			d.halt(ctx)
			closed, roomySince = time.Now(), time.Time{}
		case full && time.Since(closed) > reopenAfter && d.roomy():
			if roomySince.IsZero() {
				roomySince = time.Now()
			}
			if err := d.resume(ctx); err != nil {
				if errors.Is(err, errOpen) && time.Since(roomySince) > stuckAfter && ctx.Err() == nil {
					return fmt.Errorf("open the store after the disk was full: %w: start the node again", err)
				}
				closed = time.Now()
				d.node.Log.WarnContext(ctx, "store not opened after the disk was full", "err", err)
			}
		case full:
			d.leave(ctx) // a change of settings opens it again
		}
	}
}

// short tells whether free space is below the reserve.
func (d *disk) short() bool {
	now := diskOf(d.node.Dir)
	return now != nil && now.Free < reserve(now)
}

// roomy tells whether there is so much space again that it does not end at once.
func (d *disk) roomy() bool {
	now := diskOf(d.node.Dir)
	if now != nil && now.Free < 2*reserve(now) {
		return false
	}
	f, err := os.CreateTemp(d.node.Dir, "weft-probe-*")
	if err != nil {
		return false
	}
	_, err = f.Write(make([]byte, diskProbe))
	err = errors.Join(err, f.Sync(), f.Close())
	return errors.Join(err, os.Remove(f.Name())) == nil
}

// halt stops taking events. A node that is alone goes on serving what it has; one
// of several leaves the events to the others, so that it does not hold them up.
func (d *disk) halt(ctx context.Context) {
	n := d.node
	d.set(ctx, true)
	n.bus.Hinder(n.Trouble(), !n.cfg.Clustered())
	d.leave(ctx)
}

// leave closes the store of one node of several.
func (d *disk) leave(ctx context.Context) {
	n := d.node
	s := n.server()
	if !n.cfg.Clustered() || s == nil || !s.JetStreamEnabled() {
		return
	}
	if n.leads() { // an election without a farewell takes seconds
		call, cancel := context.WithTimeout(ctx, apiTimeout)
		_, err := n.bus.Conn().RequestWithContext(call, "$JS.API.STREAM.LEADER.STEPDOWN."+eventsStream, nil)
		cancel()
		if err != nil {
			n.Log.DebugContext(ctx, "lead not handed over", "err", err)
		}
	}
	if err := d.shut(ctx, s); err != nil {
		n.Log.WarnContext(ctx, "store not closed on a full disk", "err", err)
	}
}

// shut closes the store, and waits for it no longer than closeTimeout.
func (d *disk) shut(ctx context.Context, s *server.Server) error {
	if d.closing == nil {
		done := make(chan struct{})
		d.closing = done
		go func() { // ends with the server at the latest
			defer close(done)
			_ = s.ShutdownJetStream() // it never returns one
		}()
	}
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-d.closing:
		d.closing = nil
	case <-timer.C:
		return errOpen
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.JetStreamConfig() != nil { // it closes the store by itself, too
		return errOpen
	}
	return nil
}

// resume opens the store anew and takes events again.
func (d *disk) resume(ctx context.Context) error {
	n := d.node
	s := n.server()
	if s == nil {
		return errNotReady
	}
	if err := d.shut(ctx, s); err != nil {
		return err
	}
	if err := n.reload(); err != nil { // this starts what is configured and does not run
		return err
	}
	if !s.JetStreamEnabled() {
		return errors.New("the server did not start it: see its log")
	}
	if err := d.area.renew(); err != nil {
		n.Log.WarnContext(ctx, "commits are staged on disk", "err", err)
	}
	select {
	case <-d.noSpace: // of the store that was closed
	default:
	}
	d.set(ctx, false)
	n.bus.Hinder(nil, false)
	if n.cfg.Clustered() {
		return nil
	}
	// Consumers would wait for signs of life of the store that was closed.
	if err := n.bus.Conn().ForceReconnect(); err != nil {
		return fmt.Errorf("connect to own server: %w", err)
	}
	return nil
}

// stageOnDisk has batches staged on disk from now on. When memory is full the
// server stores none, and nothing of linked sites is taken over.
func (d *disk) stageOnDisk(ctx context.Context) {
	d.area.full = true
	d.node.Log.WarnContext(ctx, "commits are staged on disk: the memory file system is full", "dir", memoryDir)
	if err := d.resume(ctx); err != nil {
		d.node.Log.WarnContext(ctx, "store not opened after the memory file system was full", "err", err)
		d.halt(ctx) // and tries again
	}
}

// set notes whether the disk is full, and logs a change.
func (d *disk) set(ctx context.Context, full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if full == (d.full != nil) {
		return
	}
	n, left := d.node, "unknown"
	if now := diskOf(n.Dir); now != nil {
		left = sizeOf(now.Free)
	}
	if d.full = nil; !full {
		n.Log.InfoContext(ctx, "the disk has space again", "dir", n.Dir, "free", left)
		return
	}
	d.full = fmt.Errorf("%w: node %s, %s left", bus.ErrDiskFull, n.Node, left)
	n.Log.ErrorContext(ctx, "the disk is full: the node takes no events until there is space", "dir", n.Dir, "free", left)
}

// heard takes a line of the server's log that tells of an error.
func (d *disk) heard(line string) {
	if strings.Contains(line, "no space left") || strings.Contains(line, "quota exceeded") {
		select {
		case d.noSpace <- struct{}{}:
		default:
		}
	}
}
