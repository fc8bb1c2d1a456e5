package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Outcome is what came of one fault.
type Outcome struct {
	Fault
	Began  time.Duration
	Healed time.Duration // when the disturbance ended
	// Whole is when every node of the site was ready and every copy of its
	// stream had all again.
	Whole time.Duration
	// Level is how long after the end both sites of the link had all that was
	// acknowledged before it.
	Level time.Duration
	// Disturbed tells that another fault touched the link meanwhile.
	Disturbed bool
	Gap       time.Duration // the longest without an acknowledgement at the site
	Detail    string
	Skipped   bool
	Problem   string
}

// How long what was disturbed may take to be as before.
const (
	wholeTimeout = 90 * time.Second
	levelTimeout = 60 * time.Second
)

// disturb makes the faults happen and returns when all of them are over. Those
// of one target follow each other; the others overlap as the schedule says.
func (r *run) disturb(ctx context.Context) {
	lanes := map[string][]*Outcome{}
	for _, f := range r.plan {
		o := &Outcome{Fault: f}
		r.outcomes = append(r.outcomes, o)
		lanes[f.Target] = append(lanes[f.Target], o)
	}
	var wg sync.WaitGroup
	for _, lane := range lanes {
		wg.Go(func() {
			for _, o := range lane {
				if sleep(ctx, time.Until(r.began.Add(o.At))) != nil {
					return
				}
				if r.since() > r.cfg.Duration {
					o.Skipped = true
					continue
				}
				r.happen(ctx, o)
			}
		})
	}
	wg.Wait()
	r.settle()
}

func (r *run) since() time.Duration { return time.Since(r.began) }

// happen is one fault from its beginning until its target is as before.
func (r *run) happen(ctx context.Context, o *Outcome) {
	o.Began = r.since()
	r.w.printf("%s %s", o.Kind, o.Target)
	var err error
	if o.onLink() {
		err = r.onLink(ctx, o)
	} else {
		err = r.onSite(ctx, o)
	}
	if err != nil && ctx.Err() == nil {
		o.Problem = err.Error()
		r.w.printf("%s %s: %s", o.Kind, o.Target, err)
	}
}

// onLink disturbs a link, and measures how long both sides take to be level.
func (r *run) onLink(ctx context.Context, o *Outcome) error {
	l := r.world.link(o.Target)
	switch o.Kind {
	case Cut:
		l.line.cut()
	case BlackHole:
		l.line.hold()
	default:
		l.line.slow(o.Delay, o.Speed)
	}
	_ = sleep(ctx, o.For) // what was disturbed is mended in any case
	want := r.acked(l.a, l.b)
	var err error
	switch o.Kind {
	case Cut:
		err = l.line.mend(ctx)
	case BlackHole:
		l.line.release()
		if o.Reset {
			l.line.reset()
		}
	default:
		l.line.slow(0, 0)
	}
	o.Healed = r.since()
	if err != nil {
		return err
	}
	behind := 0
	wait, cancel := context.WithTimeout(ctx, levelTimeout)
	defer cancel()
	if !poll(wait, 20*time.Millisecond, func() bool { behind = want.missing(); return behind == 0 }) {
		return fmt.Errorf("not level %s after its end: %d events are missing", levelTimeout, behind)
	}
	o.Level = r.since() - o.Healed
	r.w.printf("%s %s: level after %.2f s", o.Kind, o.Target, o.Level.Seconds())
	return nil
}

// onSite disturbs nodes of a site and waits until it is whole.
func (r *run) onSite(ctx context.Context, o *Outcome) error {
	s := r.world.site(o.Target)
	var err error
	switch o.Kind {
	case KillLeader:
		err = r.killLeader(ctx, s, o)
	case KillNode:
		err = r.kill(ctx, o, s.nodes[o.Node])
	case KillSite:
		err = r.kill(ctx, o, s.nodes...)
	case Pause:
		err = r.pause(ctx, o, s.nodes[o.Node])
	case FullDisk:
		err = r.fillDisk(ctx, o, s.nodes[o.Node])
	default:
		err = r.restart(ctx, s)
	}
	o.Healed = r.since()
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	if !poll(wait, 100*time.Millisecond, func() bool { err = s.whole(wait); return err == nil }) {
		return fmt.Errorf("not whole %s after its end: %w", wholeTimeout, err)
	}
	o.Whole = r.since()
	r.w.printf("%s %s: whole after %.2f s", o.Kind, o.Target, (o.Whole - o.Healed).Seconds())
	return nil
}

// killLeader asks who leads, and kills that one.
func (r *run) killLeader(ctx context.Context, s *site, o *Outcome) error {
	var st status
	var err error
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if !poll(wait, 100*time.Millisecond, func() bool {
		st, err = s.status(wait)
		return err == nil && st.Stream.Leader != ""
	}) {
		return fmt.Errorf("find the leader of %s: %w", s.name, errors.Join(err, wait.Err()))
	}
	i := slices.IndexFunc(s.nodes, func(n *node) bool { return n.name == st.Stream.Leader })
	if i < 0 {
		return fmt.Errorf("the leader %q is no node of %s", st.Stream.Leader, s.name)
	}
	return r.kill(ctx, o, s.nodes[i])
}

// kill kills nodes at once and starts them again.
func (r *run) kill(ctx context.Context, o *Outcome, nodes ...*node) error {
	var errs []error
	for _, n := range nodes {
		o.Detail += " " + n.name
		errs = append(errs, n.kill())
	}
	_ = sleep(ctx, o.For)
	for _, n := range nodes {
		if !n.running() && ctx.Err() == nil {
			errs = append(errs, n.start(r.cfg.Binary))
		}
	}
	return errors.Join(errs...)
}

// pause stops a node's process for a while.
func (r *run) pause(ctx context.Context, o *Outcome, n *node) error {
	o.Detail = n.name
	if _, err := n.signal(sigPause, false); err != nil {
		return err
	}
	_ = sleep(ctx, o.For)
	_, err := n.signal(sigGoOn, false)
	return err
}

// restart stops and starts each node in good order, as an operator does: the
// next one when the last is ready.
func (r *run) restart(ctx context.Context, s *site) error {
	for _, n := range s.nodes {
		if err := n.stop(ctx); err != nil {
			return err
		}
		if err := n.start(r.cfg.Binary); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, wholeTimeout)
		var err error
		ok := poll(wait, 20*time.Millisecond, func() bool { err = n.ready(wait); return err == nil })
		cancel()
		if !ok {
			return fmt.Errorf("node %s is not ready %s after its restart: %w", n.name, wholeTimeout, err)
		}
	}
	return nil
}

// settle works out what the faults did to each other and to publishing.
func (r *run) settle() {
	for _, o := range r.outcomes {
		if o.Skipped {
			continue
		}
		if !o.onLink() {
			o.Gap = r.world.site(o.Target).gaps.longest(r.began.Add(o.Began), r.began.Add(max(o.Whole, o.Healed)))
			continue
		}
		l := r.world.link(o.Target)
		for _, other := range r.outcomes {
			touches := other.Target == l.a.name || other.Target == l.b.name
			over := max(other.Whole, other.Healed)
			if over == 0 || other.Problem != "" {
				over = 1 << 62 // it never ended
			}
			if touches && !other.Skipped && other.Began < o.Healed+o.Level && over > o.Healed-time.Second {
				o.Disturbed = true
			}
		}
	}
}
