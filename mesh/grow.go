package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/mesh/growth"
)

const (
	// growthDir is where the streams lie from "weft mesh grow" until the cluster
	// has them.
	growthDir = "growth"
	// keptDir is the store of the single node, until the operator removes it.
	keptDir = "store-before-growth"
)

// growthStep is how far a data directory is on its way into a cluster.
type growthStep string

const (
	// growthMoving: all streams are in growthDir; the store is being set aside.
	growthMoving growthStep = "moving"
	// growthPending: they are to be restored in the cluster.
	growthPending growthStep = "pending"
)

// Grown tells what Grow has done.
type Grown struct {
	Site     string  `json:"site"`
	Node     string  `json:"node"`
	Streams  int     `json:"streams"`
	Messages uint64  `json:"messages"`
	Bytes    uint64  `json:"bytes"`
	Seconds  float64 `json:"seconds"`
	Kept     string  `json:"kept"` // the store as it was
	// Before: it had been done before, and the nodes have not been started since.
	Before bool `json:"before,omitempty"`
}

// Grow prepares the data directory of a node that is the only one of its site for
// a site of several nodes: it takes all streams out of the store and sets that
// aside. The nodes of the new site restore them when they start. The
// configuration is the new one. Killed at any point, Grow can be run again.
func Grow(ctx context.Context, cfg Config, d Deps, report growth.Report) (Grown, error) {
	out := Grown{Site: d.Site, Node: d.Node, Kept: filepath.Join(d.Dir, keptDir)}
	if !cfg.Clustered() {
		return out, fmt.Errorf("grow: %w", conf.Field("mesh.cluster.size", "want 3 or more, with mesh.cluster and mesh.gossip as the new site has them"))
	}
	if _, err := New(cfg, d.discarded()); err != nil {
		return out, fmt.Errorf("grow: %w", err)
	}
	release, err := claimOld(d)
	if err != nil {
		return out, fmt.Errorf("grow: %w", err)
	}
	start := time.Now()
	before, err := prepareGrowth(ctx, cfg, d, report)
	var m growth.Manifest
	if err == nil {
		m, err = growth.Load(filepath.Join(d.Dir, growthDir))
	}
	out.Before, out.Streams, out.Seconds = before, len(m.Streams), time.Since(start).Seconds()
	out.Messages, out.Bytes = m.Events()
	return out, errors.Join(err, release())
}

// claimOld takes the directory of a node that does not run.
func claimOld(d Deps) (release func() error, err error) {
	path := filepath.Join(d.Dir, markerFile)
	if _, err := readMarker(path); errors.Is(err, os.ErrNotExist) {
		return nil, conf.Field("data", fmt.Sprintf("want the directory of the node that has the site's history: there is no %s", path))
	}
	release, err = lockDir(d.Dir)
	if err != nil {
		return nil, fmt.Errorf("%w: stop the node first", err)
	}
	found, err := readMarker(path)
	switch {
	case err != nil:
		err = dataError(err)
	case found.Site != d.Site:
		err = conf.Field("site", fmt.Sprintf("want %s, to which the store in %s belongs, have %s", found.Site, d.Dir, d.Site))
	case found.Node != d.Node:
		err = conf.Field("node", fmt.Sprintf("want %s, to which the store in %s belongs, have %s", found.Node, d.Dir, d.Node))
	case found.Cluster && found.Growth == "":
		err = conf.Field("data", fmt.Sprintf("the store in %s is part of a site of several nodes already: start another node to make it larger", d.Dir))
	}
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// prepareGrowth takes the streams out of a claimed directory, unless that was
// done before, and sets the store aside.
func prepareGrowth(ctx context.Context, cfg Config, d Deps, report growth.Report) (before bool, err error) {
	path := filepath.Join(d.Dir, markerFile)
	found, err := readMarker(path)
	if err != nil {
		return false, dataError(err)
	}
	if before = found.Growth != ""; !before {
		kept := filepath.Join(d.Dir, keptDir)
		if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
			return false, dataError(fmt.Errorf("%s is there already, and may hold history: move it away", kept))
		}
		if err := takeStreams(ctx, cfg, d, report); err != nil {
			return false, err
		}
		found.Cluster, found.Growth = true, growthMoving
		if err := found.write(path); err != nil {
			return false, dataError(err)
		}
	}
	if err := setAside(d.Dir, found); err != nil {
		return before, dataError(err)
	}
	return before, nil
}

// setAside moves the store of the single node away, so that no server of the
// cluster ever opens it, and notes that.
func setAside(dir string, m marker) error {
	if m.Growth != growthMoving {
		return nil
	}
	kept := filepath.Join(dir, keptDir)
	if _, err := os.Stat(kept); errors.Is(err, os.ErrNotExist) {
		if err := os.Rename(filepath.Join(dir, storeDir), kept); err != nil {
			return err
		}
	}
	if err := growth.SyncDir(dir); err != nil {
		return err
	}
	m.Growth = growthPending
	return m.write(filepath.Join(dir, markerFile))
}

// discarded are deps for a node that is not run as one.
func (d Deps) discarded() Deps {
	d.Metrics = obs.Discard().Metrics
	return d
}

// takeStreams opens the store as it was used before, without any listener, and
// takes its streams.
func takeStreams(ctx context.Context, cfg Config, d Deps, report growth.Report) error {
	solo := DefaultConfig()
	solo.Client.Listen = ""
	solo.Events.MaxBytes = 1 << 50 // no limit: the store has had one, which may have been another
	n, err := New(solo, d.discarded())
	if err != nil {
		return err
	}
	area := newStaging(d.Dir, d.Site)
	s, err := n.start(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(s.watch(ctx)) }()
	if area.old != "" {
		_ = os.RemoveAll(area.old) // the server has recovered from it
	}
	store := growth.Store{Conn: s.conn, Site: d.Site, Node: d.Node, Dir: filepath.Join(d.Dir, growthDir), Report: report}
	if err := fits(ctx, cfg, d, store); err != nil {
		return err
	}
	if _, err := store.Take(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
		return err
	}
	return nil
}

// fits looks whether the streams can be taken and restored, and waits until
// EVENTS has drawn what was captured for it.
func fits(ctx context.Context, cfg Config, d Deps, store growth.Store) error {
	js, err := jetstream.New(store.Conn, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return fmt.Errorf("use jetstream: %w", err)
	}
	events, err := js.Stream(ctx, eventsStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return dataError(fmt.Errorf("the store in %s has no stream %s, and so no history: remove the directory and start the new site", d.Dir, eventsStream))
	}
	if err != nil {
		return fmt.Errorf("read stream %s: %w", eventsStream, err)
	}
	if was := events.CachedInfo().Config.MaxBytes; cfg.Events.MaxBytes.Bytes() < was {
		return conf.Field("mesh.events.maxBytes", fmt.Sprintf("want at least %s, as before: make it smaller when the site has grown", conf.Size(was)))
	}
	if err := drained(ctx, js); err != nil {
		return err
	}
	sizes, err := store.Sizes(ctx)
	if err != nil {
		return err
	}
	var total uint64
	for _, size := range sizes {
		total += size
	}
	return room(d.Dir, total, diskOf(d.Dir))
}

// room wants space for the copies of the streams and for the restored ones.
func room(dir string, bytes uint64, disk *Disk) error {
	const spare = 64 << 20 // indexes, and what the disk needs itself
	need := 2*bytes + bytes/10 + spare
	if disk == nil || disk.Free >= need {
		return nil
	}
	mib := func(n uint64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }
	return dataError(fmt.Errorf("the disk of %s has %s free, want %s: the streams take %s, which are needed for their copy and once more when they are restored",
		dir, mib(disk.Free), mib(need), mib(bytes)))
}

// drained waits until EVENTS has drawn what was captured, as long as it goes on.
// What no configured subject takes stays where it is, and comes along.
func drained(ctx context.Context, js jetstream.JetStream) error {
	const patience = 12 * time.Second // without progress: the server looks for a source again after 10 s
	left := ^uint64(0)
	for until := time.Now().Add(patience); time.Now().Before(until); run.Pause(ctx, 20*time.Millisecond) {
		s, err := js.Stream(ctx, captureStream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read stream %s: %w", captureStream, err)
		}
		now := s.CachedInfo().State.Msgs
		if now == 0 {
			return nil
		}
		if now != left {
			left, until = now, time.Now().Add(patience)
		}
	}
	return nil
}
