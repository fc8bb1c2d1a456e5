package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
)

const (
	// linkInterval is how often a link's agreement is renewed; linkRetry while
	// the peer does not answer or something is not in place yet.
	linkInterval = 2 * time.Second
	linkRetry    = 250 * time.Millisecond
	// askTimeout is how long a peer may take to answer before the link counts as down.
	askTimeout = 2 * time.Second
	// dialAfter is how long a site that leaves dialling to its peer waits for it
	// at first; forgetAfter, once the peer has dialled.
	dialAfter   = 3 * time.Second
	forgetAfter = time.Minute
	// linkWindow is how many events may be under way on a link.
	linkWindow = 20000
)

// link is the agreement with one other site. Events flow by a durable consumer
// of the exporter, which the importer's stream draws from: nothing is lost or
// doubled when the connection breaks. Every linkInterval the importer asks the
// exporter to have that consumer as it needs it and then puts the source in
// place, so sites may start in any order.
type link struct {
	Link
	node *Node

	mu    sync.Mutex
	state linkState // guarded by mu
}

// linkState is what the last question to the peer showed.
type linkState struct {
	up        bool
	since     time.Time
	rtt       time.Duration
	peer      linkAnswer
	importer  []string // filters drawn from the peer
	problem   string
	yields    bool // the peer is left to dial
	peerDials bool // it has done so
}

// dials tells whether this side makes the connection.
func (l *link) dials() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.URLs) > 0 && !l.state.yields
}

// leave lets the peer make the connection, or stops doing so. Two connections
// between the same sites are a loop, so of two sites that could both dial the
// one whose name comes first does. The other dials only if that one stays away.
func (l *link) leave(ctx context.Context, to bool) {
	l.mu.Lock()
	change := l.mayYield() && l.state.yields != to
	if change {
		l.state.yields = to
	}
	l.mu.Unlock()
	if !change {
		return
	}
	l.node.Log.InfoContext(ctx, "link dialling changed", "site", l.Name, "dials", !to)
	if err := l.node.reload(); err != nil {
		l.node.Log.ErrorContext(ctx, "link dialling not changed", "site", l.Name, "err", err)
	}
}

func (l *link) isUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.up
}

func (l *link) mayYield() bool {
	return len(l.URLs) > 0 && l.node.cfg.Links.Listen != "" && l.Name < l.node.Site
}

// away tells how long the peer has been away and whether it used to dial.
func (l *link) away() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.up {
		return 0, l.state.peerDials
	}
	return time.Since(l.state.since), l.state.peerDials
}

// linkRequest is what an importer sends.
type linkRequest struct {
	Node    string   `json:"node"`
	Version string   `json:"version"`
	Dials   bool     `json:"dials"`
	Import  []string `json:"import"`
}

// linkAnswer is what the exporter has done.
type linkAnswer struct {
	Node    string   `json:"node"`
	Version string   `json:"version"`
	Epoch   string   `json:"epoch"`
	Last    uint64   `json:"last"`    // last sequence of the exporter's stream
	Filters []string `json:"filters"` // export ∩ import; empty: nothing flows
	Problem string   `json:"problem,omitempty"`
}

func newLink(n *Node, l Link) *link {
	return &link{Link: l, node: n, state: linkState{since: time.Now()}}
}

// owns tells whether a source of EVENTS is this link's.
func (l *link) owns(s *jetstream.StreamSource) bool {
	return s.External != nil && s.External.APIPrefix == apiPrefix(l.Name)
}

func apiPrefix(site string) string { return "$JS." + site + ".API" }

// Run keeps the agreement until ctx ends.
func (l *link) Run(ctx context.Context) error {
	for {
		wait := linkInterval
		if err := l.renew(ctx); err != nil {
			wait = linkRetry
		}
		if gone, dialled := l.away(); gone > dialAfter && (!dialled || gone > forgetAfter) {
			l.leave(ctx, false)
		}
		pause(ctx, wait)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// renew asks the peer for its events and draws from what it offers.
func (l *link) renew(ctx context.Context) error {
	n := l.node
	data, err := json.Marshal(linkRequest{Node: n.Node, Version: n.Version, Dials: l.dials(), Import: l.Import})
	if err != nil {
		return fmt.Errorf("encode link question: %w", err)
	}
	own, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	start := time.Now()
	raw, err := n.Ask(own, l.Name, linkQuestion, data)
	rtt := time.Since(start)
	var answer linkAnswer
	if err == nil {
		err = json.Unmarshal(raw, &answer)
	}
	if err == nil && answer.Problem == "" {
		err = l.draw(ctx, answer.Filters)
	}
	l.record(ctx, answer, rtt, err)
	return err
}

// record keeps what was learnt and logs a change of state.
func (l *link) record(ctx context.Context, answer linkAnswer, rtt time.Duration, err error) {
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	was := l.state.up
	up := answer.Node != ""
	if up != was {
		l.state.since = time.Now()
	}
	l.state.up, l.state.problem = up, answer.Problem
	if err != nil {
		l.state.problem = err.Error()
	}
	if up {
		l.state.rtt, l.state.peer, l.state.importer = rtt, answer, answer.Filters
	}
	l.mu.Unlock()
	switch {
	case up && !was:
		l.node.Log.InfoContext(ctx, "link up", "site", l.Name, "node", answer.Node, "rtt", rtt, "imports", answer.Filters)
	case was && !up:
		l.node.Log.WarnContext(ctx, "link down", "site", l.Name, "err", err)
	}
}

// draw puts the link's source into EVENTS, or removes it if nothing flows.
func (l *link) draw(ctx context.Context, filters []string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	n := l.node
	n.sources.Lock()
	defer n.sources.Unlock()
	s, err := n.bus.JetStream().Stream(ctx, eventsStream)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", eventsStream, err)
	}
	cfg := s.CachedInfo().Config
	i := slices.IndexFunc(cfg.Sources, l.owns)
	switch {
	case i < 0 && len(filters) > 0:
		cfg.Sources = append(cfg.Sources, l.source())
	case i >= 0 && len(filters) == 0:
		cfg.Sources = slices.Delete(cfg.Sources, i, i+1)
	default:
		return nil
	}
	if _, err := n.bus.JetStream().UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("draw from site %s: %w", l.Name, err)
	}
	return nil
}

// source is how EVENTS draws from the peer's consumer to-<this site>.
func (l *link) source() *jetstream.StreamSource {
	return &jetstream.StreamSource{
		Name:     eventsStream,
		Consumer: &jetstream.StreamConsumerSource{Name: "to-" + l.node.Site, DeliverSubject: "wl." + l.Name + "." + l.node.Site},
		External: &jetstream.ExternalStream{APIPrefix: apiPrefix(l.Name)},
	}
}

// export answers the peer's question: it makes the consumer that the peer draws from.
func (l *link) export(ctx context.Context, m *nats.Msg) {
	n := l.node
	answer := linkAnswer{Node: n.Node, Version: n.Version}
	var req linkRequest
	err := json.Unmarshal(m.Data, &req)
	if err == nil && req.Dials {
		l.mu.Lock()
		l.state.peerDials = true
		l.mu.Unlock()
		l.leave(ctx, true)
	}
	if err == nil {
		answer.Filters = crossing(l.Export, req.Import)
		answer.Epoch, answer.Last, err = l.offer(ctx, answer.Filters)
	}
	if err != nil {
		n.Log.WarnContext(ctx, "export not ready", "site", l.Name, "err", err)
		answer.Problem = err.Error()
	}
	data, err := json.Marshal(answer)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		n.Log.WarnContext(ctx, "link question not answered", "site", l.Name, "err", err)
	}
}

// offer makes, adapts or removes the consumer to-<peer>.
func (l *link) offer(ctx context.Context, filters []string) (epoch string, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	n := l.node
	info, err := n.bus.Info(ctx)
	if err != nil {
		return "", 0, err
	}
	js, name := n.bus.JetStream(), "to-"+l.Name
	if len(filters) == 0 {
		err := js.DeleteConsumer(ctx, eventsStream, name)
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return "", 0, fmt.Errorf("remove export to %s: %w", l.Name, err)
		}
		return info.Epoch, info.Last, nil
	}
	subjects := make([]string, len(filters))
	for i, p := range filters {
		subjects[i] = event.OnMesh(n.Site, p)
	}
	old, err := js.PushConsumer(ctx, eventsStream, name)
	if err == nil && slices.Equal(filterSubjects(old.CachedInfo().Config), subjects) {
		return info.Epoch, info.Last, nil
	}
	_, err = js.CreateOrUpdatePushConsumer(ctx, eventsStream, jetstream.ConsumerConfig{
		Durable:        name,
		Description:    "Events of site " + n.Site + " for site " + l.Name,
		DeliverSubject: "wl." + n.Site + "." + l.Name,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckFlowControlPolicy,
		FlowControl:    true,
		IdleHeartbeat:  time.Second, // the value the server asks of such a consumer
		MaxAckPending:  linkWindow,
		FilterSubjects: subjects,
	})
	if err != nil {
		return "", 0, fmt.Errorf("export to %s: %w", l.Name, err)
	}
	return info.Epoch, info.Last, nil
}

func filterSubjects(c jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
}
