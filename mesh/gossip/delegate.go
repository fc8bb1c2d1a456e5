package gossip

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist asks and tells the pool.
type delegate struct {
	pool *Pool
	meta []byte
}

func (d *delegate) NodeMeta(int) []byte             { return d.meta }
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}
func (d *delegate) NotifyJoin(*memberlist.Node)     { d.change() }
func (d *delegate) NotifyLeave(*memberlist.Node)    { d.change() }
func (d *delegate) NotifyUpdate(*memberlist.Node)   { d.change() }

func (d *delegate) change() { signal(d.pool.changed) }

// NotifyMsg takes what another node sent to this one alone.
func (d *delegate) NotifyMsg(b []byte) { d.pool.call(string(b)) }

// errRefused: two nodes' settings do not fit together.
var errRefused = errors.New("refused")

// refusal is the part of a join's error that names a setting, if any does.
func refusal(err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, errRefused):
		return err
	case strings.Contains(text, errRefused.Error()+":"):
		return errors.New(text[strings.Index(text, errRefused.Error()+":"):])
	case strings.Contains(text, "decrypt"), strings.Contains(text, "Encryption"), strings.Contains(text, "encrypt"):
		return fmt.Errorf("%w: mesh.gossip.key differs from that of the other nodes (%s)", errRefused, text)
	case strings.Contains(text, "EOF"):
		return fmt.Errorf("%w: mesh.gossip.join leads to another site (%s)", errRefused, text)
	}
	return nil
}

// NotifyMerge looks at the nodes that a peer knows before they are taken in. Both
// sides of a join ask it, so both learn of a difference.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, n := range peers {
		if n.State == memberlist.StateAlive || n.State == memberlist.StateSuspect {
			if err := d.check(n); err != nil {
				d.pool.Log.Error("node refused", "node", n.Name, "addr", n.Address(), "err", err)
				return err
			}
		}
	}
	return nil
}

// NotifyAlive looks at one node in the same way.
func (d *delegate) NotifyAlive(n *memberlist.Node) error { return d.fits(n) }

func (d *delegate) check(n *memberlist.Node) error {
	if err := d.fits(n); err != nil {
		return err
	}
	p := d.pool
	select {
	case <-p.made:
	default:
		return nil // nobody is known yet
	}
	for _, own := range p.list.Members() {
		if own.Name == n.Name && own.Address() != n.Address() && own.State == memberlist.StateAlive {
			return fmt.Errorf("%w: node: %s is at %s already; give each node of a site its own name (the name is free %s after its node has died)",
				errRefused, n.Name, own.Address(), reclaim)
		}
	}
	return nil
}

func (d *delegate) fits(n *memberlist.Node) error {
	m, err := decode(n)
	own := d.pool.cfg.Self
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errRefused, err)
	case m.Site != own.Site:
		return fmt.Errorf("%w: site: node %s belongs to site %s, this one to %s", errRefused, n.Name, m.Site, own.Site)
	case m.Size != own.Size:
		return fmt.Errorf("%w: mesh.cluster.size: node %s has %d, this one %d", errRefused, n.Name, m.Size, own.Size)
	}
	return nil
}

// NotifyConflict hears of two nodes with one name.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.pool.Log.Error("two nodes of the site have one name: set node", "node", other.Name, "addr", existing.Address(), "other", other.Address())
}

// logWriter takes memberlist's log, line by line.
type logWriter struct{ pool *Pool }

// Write implements io.Writer.
func (w *logWriter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	_, after, ok := strings.Cut(text, "memberlist: ")
	if ok {
		after = strings.TrimSpace(after)
	} else {
		after = text
	}
	l := w.pool.Log
	switch {
	case strings.Contains(text, "decrypt") || strings.Contains(text, "encrypt"):
		l.Error("gossip refused: mesh.gossip.key differs", "err", after)
	case strings.Contains(text, "unacceptable label"):
		l.Error("gossip refused: it comes from another site", "err", after)
	case strings.HasPrefix(text, "[ERR]") && !strings.Contains(text, errRefused.Error()):
		l.Warn("gossip", "err", after)
	default:
		l.Debug("gossip", "text", after)
	}
	return len(line), nil
}
