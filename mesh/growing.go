package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/mesh/growth"
)

// sourceRoom is what a stream adds to a message that it draws from another, in
// bytes: such a message may be larger than clients may publish, and is to be
// restored all the same.
const sourceRoom = 64 << 10

// pollHistory is how often a node looks whether the site has its history.
const pollHistory = 50 * time.Millisecond

// growing is a node's part in the growth of its site. Until the history is in the
// cluster nothing may be made there, so the node admits no clients.
type growing struct {
	dir      string          // with what this node has to bring; empty: nothing
	manifest growth.Manifest // of it
	from     []string        // nodes of which gossip says that they bring the history
	closed   atomic.Bool     // clients are not admitted
}

func (g *growing) shut() bool { return g.closed.Load() }

func (g *growing) admitted(users []User) []User {
	if g.shut() {
		return nil
	}
	return users
}

func (g *growing) room() int {
	if g.shut() && len(g.from) > 0 {
		return sourceRoom
	}
	return 0
}

// openGrowth finds what this node has to bring into its cluster. A node that has
// been part of it before has nothing to wait for.
func (n *Node) openGrowth(ctx context.Context, found marker) error {
	dir := filepath.Join(n.Dir, growthDir)
	n.growth.closed.Store(n.cfg.Clustered() && !n.formed())
	if found.Growth == "" {
		if err := os.RemoveAll(dir); err != nil { // of a growth that was given up, or is done
			return dataError(err)
		}
		return nil
	}
	if err := setAside(n.Dir, found); err != nil {
		return dataError(err)
	}
	m, err := growth.Load(dir)
	if err != nil {
		return dataError(err)
	}
	n.growth.dir, n.growth.manifest = dir, m
	n.Log.InfoContext(ctx, "this node brings the history of the site", "streams", len(m.Streams), "taken", m.At)
	return nil
}

// finishGrowth returns when the site has its history.
func (n *Node) finishGrowth(ctx context.Context, s *embedded) error {
	if !n.growth.shut() {
		return nil
	}
	var err error
	if n.growth.dir != "" {
		err = n.bringHistory(ctx, s)
	} else {
		err = n.awaitHistory(ctx, s)
	}
	if err != nil {
		return err
	}
	roomy := n.growth.room() > 0
	n.growth.closed.Store(false)
	if !roomy && n.cfg.Client.Listen == "" {
		return nil // the settings are the same
	}
	if err := n.reload(); err != nil || !roomy {
		return err
	}
	s.conn.Close() // a connection does not learn of another max_payload
	return n.connect(s)
}

// bringHistory restores what this node has into the cluster.
func (n *Node) bringHistory(ctx context.Context, s *embedded) error {
	messages, bytes := n.growth.manifest.Events()
	n.Log.InfoContext(ctx, "restoring the site's history", "streams", len(n.growth.manifest.Streams), "messages", messages, "bytes", bytes)
	start := time.Now()
	c := growth.Carrier{
		Scope: n.Scope, Conn: s.conn, Dir: n.growth.dir, Manifest: n.growth.manifest,
		Replicas: n.cfg.Replicas(), Main: eventsStream, Mark: bus.MetaEpoch, Report: func(growth.Progress) {},
	}
	err := c.Run(ctx)
	if errors.Is(err, growth.ErrTaken) {
		return fmt.Errorf("bring the history of site %s: %w", n.Site, conf.Field("data", fmt.Sprintf(
			"%v; nothing was overwritten. The other nodes have been a site without this one: stop them, move their data directories away, and start all nodes together",
			err)))
	}
	if err != nil {
		return fmt.Errorf("bring the history of site %s: %w", n.Site, err)
	}
	m := marker{Site: n.Site, Node: n.Node, Cluster: true}
	if err := errors.Join(m.write(filepath.Join(n.Dir, markerFile)), os.RemoveAll(n.growth.dir)); err != nil {
		return dataError(err)
	}
	n.Log.InfoContext(ctx, "the site has its history", "messages", messages, "took", time.Since(start).Round(time.Millisecond),
		"remove_when_content", filepath.Join(n.Dir, keptDir))
	return nil
}

// awaitHistory waits while another node brings the site's history. Whether one
// does is known from gossip, or from the gate, which is there as long as it goes on.
func (n *Node) awaitHistory(ctx context.Context, s *embedded) error {
	js, err := jetstream.New(s.conn, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return fmt.Errorf("use jetstream: %w", err)
	}
	from, next := n.growth.from, time.Now().Add(barrierNews)
	for wait := startTimeout; ctx.Err() == nil; run.Pause(ctx, pollHistory) {
		streams, err := streamNames(ctx, js, wait)
		gate := slices.Contains(streams, growth.Gate)
		switch {
		case err != nil: // while the cluster has no leader yet nobody answers
			wait = min(2*wait, apiTimeout)
		case !gate && (len(from) == 0 || slices.Contains(streams, eventsStream)):
			return nil
		case gate && len(from) == 0:
			from = []string{"unknown"}
			if info, err := streamInfo(ctx, js, growth.Gate, wait); err == nil && info != nil {
				from = []string{info.Config.Metadata["weft.node"]}
			}
		}
		if len(from) > 0 && time.Now().After(next) {
			next = time.Now().Add(barrierNews)
			present := names(n.Members())
			n.Log.InfoContext(ctx, "waiting for a node that brings the site's history", "node", from[0], "there", present)
		}
	}
	return fmt.Errorf("wait for the history of site %s, which %v brings: %w", n.Site, from, ctx.Err())
}

// streamNames asks once which streams there are. Unlike a question for a stream
// that is not there, it is answered at once.
func streamNames(ctx context.Context, js jetstream.JetStream, within time.Duration) (names []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	list := js.StreamNames(ctx)
	for name := range list.Name() {
		names = append(names, name)
	}
	return names, list.Err()
}

// streamInfo asks for a stream once; nil: there is none.
func streamInfo(ctx context.Context, js jetstream.JetStream, name string, within time.Duration) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	s, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.CachedInfo(), nil
}
