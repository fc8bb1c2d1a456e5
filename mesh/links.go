package mesh

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/mesh/transfer"
)

// links are the agreements of a node with other sites: those of the
// configuration, which stay, and those of the directory, which come and go while
// the node runs. It is safe for concurrent use.
type links struct {
	mu   sync.Mutex
	list []*link       // guarded by mu; replaced and never changed, so that all can give it out
	news chan struct{} // of one place: the list has changed
}

func newLinks() *links { return &links{news: make(chan struct{}, 1)} }

// all are the links in the order in which they were added.
func (s *links) all() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list
}

// by is the link to a site, or nil.
func (s *links) by(site string) *link {
	list := s.all()
	if i := slices.IndexFunc(list, func(l *link) bool { return l.Name == site }); i >= 0 {
		return list[i]
	}
	return nil
}

// set replaces the list, of which the server's settings are made.
func (s *links) set(list []*link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.Clone(list)
}

// changed lets run start and stop what is new and gone.
func (s *links) changed() {
	select {
	case s.news <- struct{}{}:
	default: // run has not looked yet
	}
}

// run serves each link from when it is in the list until it is no more, or ctx ends.
func (s *links) run(ctx context.Context) error {
	failed := make(chan error, 1)
	running := map[*link]func(){}
	defer func() { // all at once: each may wait for a stream that has no leader any more
		var stopping sync.WaitGroup
		for _, stop := range running {
			stopping.Go(stop)
		}
		stopping.Wait()
	}()
	for {
		list := s.all()
		for l, stop := range running { // first: a site may have another link instead
			if !slices.Contains(list, l) {
				stop()
				delete(running, l)
			}
		}
		for _, l := range list {
			if running[l] == nil {
				running[l] = l.begin(ctx, failed)
			}
		}
		select {
		case <-s.news:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// begin serves a link until stop is called, which waits for the end.
func (l *link) begin(ctx context.Context, failed chan<- error) (stop func()) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { // ended by stop
		defer close(done)
		if err := l.serve(own); err != nil {
			select {
			case failed <- fmt.Errorf("link to %s: %w", l.Name, err):
			default: // the first one ends the node
			}
		}
	}()
	return func() { cancel(); <-done }
}

// serve keeps the agreement and answers the site's questions, and serves the
// sessions it opens, until ctx ends.
func (l *link) serve(ctx context.Context) error {
	defer l.exporter.Wait()
	prefix := askSubject(l.node.Site, l.Name) + "."
	// By name of the peer: a subscription wider than the allow list does not cross the link.
	sub, err := l.node.bus.Conn().QueueSubscribe(prefix+">", "weft-ask", func(m *nats.Msg) {
		l.question(ctx, strings.TrimPrefix(m.Subject, prefix), m)
	})
	if err != nil {
		return fmt.Errorf("answer questions: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	return l.Run(ctx)
}

// question passes a question of the site on to what answers it.
func (l *link) question(ctx context.Context, subject string, m *nats.Msg) {
	switch {
	case m.Reply == "":
	case subject == linkQuestion:
		l.answer(ctx, m)
	case subject == transfer.Question:
		l.exporter.Answer(ctx, m)
	case subject == directoryQuestion && l.node.directory != nil:
		l.node.directory.answer(l, m)
	case slices.Contains(openSubjects, subject):
		if err := l.node.bus.Conn().PublishRequest(subject, m.Reply, m.Data); err != nil {
			l.node.Log.WarnContext(ctx, "question of a site not passed on", "site", l.Name, "subject", subject, "err", err)
		}
	}
}
