package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// The holder renews every leaseRenew and begins nothing when its last
	// renewal is older than leaseValid. Others take the lease when they have
	// seen it unchanged for leaseTTL by their own clock, so no two nodes
	// deliver at a time and clocks need not agree.
	leaseRenew = 2 * time.Second
	leaseValid = 5 * time.Second
	leaseTTL   = 6 * time.Second
	leasePoll  = time.Second
)

// lease is the right of one node to deliver.
type lease struct {
	kv   jetstream.KeyValue
	node string
	lost chan struct{} // closed when another node has it or it was not renewed in time

	mu      sync.Mutex // guards renewed and rev
	renewed time.Time
	rev     uint64
}

type holder struct {
	Node string `json:"node"`
}

// acquire waits until this node has the lease. An error means that ctx ended.
func (s *Service) acquire(ctx context.Context, kv jetstream.KeyValue) (*lease, error) {
	value, err := json.Marshal(holder{s.Deps.Node})
	if err != nil {
		return nil, fmt.Errorf("acquire webhook lease: %w", err)
	}
	var seen uint64
	since := time.Now()
	for {
		now := time.Now()
		e, err := kv.Get(ctx, leaseKey)
		var rev uint64
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			rev, err = kv.Create(ctx, leaseKey, value)
		case err != nil:
		case e.Revision() != seen:
			seen, since = e.Revision(), now
			if held(e.Value()) != s.Deps.Node { // our own is from before a restart
				err = jetstream.ErrKeyExists
				break
			}
			rev, err = kv.Update(ctx, leaseKey, value, e.Revision())
		case now.Sub(since) < leaseTTL:
			err = jetstream.ErrKeyExists
		default:
			rev, err = kv.Update(ctx, leaseKey, value, e.Revision())
		}
		if err == nil {
			return &lease{kv: kv, node: s.Deps.Node, lost: make(chan struct{}), renewed: now, rev: rev}, nil
		}
		if !pause(ctx, leasePoll) {
			return nil, ctx.Err()
		}
	}
}

func held(value []byte) string {
	var h holder
	if json.Unmarshal(value, &h) != nil {
		return ""
	}
	return h.Node
}

// valid reports whether this node may begin something now.
func (l *lease) valid(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Sub(l.renewed) < leaseValid
}

// keep renews until ctx ends or the lease is lost; it closes lost then.
func (l *lease) keep(ctx context.Context) {
	value, err := json.Marshal(holder{l.node})
	for err == nil && pause(ctx, leaseRenew) {
		now := time.Now()
		try, cancel := context.WithTimeout(ctx, leaseRenew)
		rev, fail := l.kv.Update(try, leaseKey, value, l.rev)
		cancel()
		switch {
		case fail == nil:
			err = l.renew(now, rev)
		case errors.Is(fail, jetstream.ErrKeyExists):
			err = fail // somebody else wrote it
		case !l.valid(time.Now()):
			err = fail
		}
	}
	if ctx.Err() == nil {
		close(l.lost)
	}
}

var errLate = errors.New("renewed too late")

// renew notes a renewal begun at now. One that comes after the lease was not
// valid for a while is too late: the engine may have ended its term then.
func (l *lease) renew(now time.Time, rev uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := time.Since(l.renewed) >= leaseValid
	l.renewed, l.rev = now, rev
	if late {
		return errLate
	}
	return nil
}

// release gives the lease back, so that another node need not wait for its end.
func (l *lease) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseRenew)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.kv.Delete(ctx, leaseKey, jetstream.LastRevision(l.rev)) // else it runs out
}

// lead delivers whenever this node has the lease, until ctx ends.
func (s *Service) lead(ctx context.Context, st *stores) {
	for {
		l, err := s.acquire(ctx, st.state)
		if err != nil {
			return
		}
		s.Deps.Log.InfoContext(ctx, "webhook delivery begins on this node", "node", s.Deps.Node)
		if err := s.term(ctx, st, l); err != nil {
			s.Deps.Log.WarnContext(ctx, "webhook delivery did not begin", "err", err)
		}
		if !pause(ctx, leasePoll) {
			return
		}
	}
}

// term delivers until ctx ends or the lease is lost.
func (s *Service) term(ctx context.Context, st *stores, l *lease) error {
	term, cancel := context.WithCancel(ctx)
	renew, stopRenewing := context.WithCancel(context.WithoutCancel(ctx)) // also while draining
	var wg sync.WaitGroup
	wg.Go(func() { l.keep(renew) })
	wg.Go(func() {
		select {
		case <-l.lost:
			s.Deps.Log.Warn("webhook delivery lost its lease", "node", s.Deps.Node)
			cancel()
		case <-term.Done():
		}
	})
	err := s.runEngine(term, st, l)
	cancel()
	stopRenewing()
	wg.Wait()
	l.release(ctx)
	return err
}
