package mesh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/mesh/transfer"
)

const (
	// linkInterval is how often a link's agreement is renewed; linkRetry while
	// the peer does not answer or something is not in place yet.
	linkInterval = time.Second
	linkRetry    = 250 * time.Millisecond
	// askTimeout is how long a peer may take to answer before the link counts as
	// down; askFirst, how long while it is: the first question on a new connection
	// may get lost, or its answer.
	askTimeout, askFirst = 2 * time.Second, 500 * time.Millisecond
	// dialAfter is how long a site that leaves dialling to its peer waits for it
	// at first; forgetAfter, once the peer has dialled.
	dialAfter   = 3 * time.Second
	forgetAfter = time.Minute
	// deafAfter is how many questions in a row without an answer mean that the
	// connection is dead, though it stands: it is closed, to be dialled anew.
	deafAfter = 2
)

// link is the agreement with one other site. Every linkInterval each side asks
// the other how it is; the events themselves flow by the sessions of package
// transfer, which begin and end with the connection.
type link struct {
	Link
	node     *Node
	exporter *transfer.Exporter
	importer *transfer.Importer

	mu    sync.Mutex
	state linkState // guarded by mu
}

// linkState is what the last question to the peer showed.
type linkState struct {
	up        bool
	since     time.Time
	rtt       time.Duration
	offset    time.Duration // how far the peer's clock is ahead
	peer      linkAnswer
	problem   string
	deaf      int  // questions in a row without an answer
	yields    bool // the peer is left to dial
	peerDials bool // it has done so
	// trusting leaves out the guards against dead connections and wrong clocks. Only
	// tests set it, to show what they are for.
	trusting bool
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
	links := l.node.cfg.Links
	return len(l.URLs) > 0 && (links.Listen != "" || links.WebSocket.Listen != "") && l.Name < l.node.Site
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

// linkRequest is what a site asks.
type linkRequest struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	Dials   bool   `json:"dials"`
	At      int64  `json:"at,omitempty"` // the sender's clock, Unix ns
}

// linkAnswer is what the peer says of itself.
type linkAnswer struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	Problem string `json:"problem,omitempty"`
	At      int64  `json:"at,omitempty"` // the sender's clock, Unix ns
}

func newLink(n *Node, l Link) *link {
	out := &link{Link: l, node: n, state: linkState{since: time.Now()}}
	pair := transfer.Agreement{Here: n.Site, Peer: l.Name}
	deps := transfer.Deps{
		Scope: n.Scope, Bus: n.bus, Up: out.isUp, Active: n.imports,
		Ask: func(ctx context.Context, question string, data []byte) ([]byte, error) {
			return n.Ask(ctx, l.Name, question, data)
		},
	}
	out.exporter = &transfer.Exporter{
		Agreement: pair, Deps: deps, Filters: out.filters,
		Keep: transfer.Retention{MaxAge: n.cfg.Events.MaxAge.Std(), MaxBytes: n.cfg.Events.MaxBytes.Bytes()},
		Lost: func(events uint64) {
			n.metrics.lost.WithLabelValues(l.Name).Add(float64(events))
			n.history.incident(l.Name, "lost")
		},
	}
	out.importer = &transfer.Importer{
		Agreement: pair, Deps: deps, Wants: transfer.Wants{Import: l.Import, Relays: l.Relays},
		Accept: out.accepts, Shared: out.shares, Origins: &n.origins, Count: n.metrics.link(l.Name),
	}
	return out
}

// filters are what crosses to the peer, of what it wants: an edge is given the
// events of all sites, others those of this site and, if they ask, of its edges.
func (l *link) filters(wants transfer.Wants) (subjects, patterns []string) {
	patterns = crossing(l.Export, wants.Import)
	origins := []string{l.node.Site}
	switch {
	case l.Edge:
		origins = []string{"*"}
	case wants.Relays:
		origins = append(origins, l.node.edges(l.Name)...)
	}
	for _, o := range origins {
		for _, p := range patterns {
			subjects = append(subjects, event.OnMesh(o, p))
		}
	}
	return subjects, patterns
}

// accepts tells whether the peer may bring events of an origin: its own, and as
// a relay those of sites that are not linked here, or as edges only.
func (l *link) accepts(origin string) bool {
	switch {
	case origin == l.Name:
		return true
	case origin == l.node.Site:
		return false
	}
	return l.Home || l.Relays && !l.node.speaks(origin)
}

// shares tells whether other links may bring events of an origin, too.
func (l *link) shares(origin string) bool { return origin != l.Name || l.Home || l.Edge }

// edges are the linked sites, but one, that are edges of this one.
func (n *Node) edges(but string) (out []string) {
	for _, l := range n.links.all() {
		if l.Edge && l.Name != but {
			out = append(out, l.Name)
		}
	}
	return out
}

// speaks tells whether a site is linked here and brings its events itself, and
// nobody else does.
func (n *Node) speaks(site string) bool {
	return slices.ContainsFunc(n.links.all(), func(l *link) bool { return l.Name == site && !l.Edge })
}

// Run keeps the agreement until ctx ends.
func (l *link) Run(ctx context.Context) error {
	var importing sync.WaitGroup
	importing.Go(func() { _ = l.importer.Run(ctx) }) // it returns no error
	importing.Go(func() { l.diagnose(ctx) })
	importing.Go(func() { l.exporter.Guard(ctx) })
	defer importing.Wait()
	for {
		wait := linkInterval
		if err := l.renew(ctx); err != nil {
			wait = linkRetry
		}
		if gone, dialled := l.away(); gone > dialAfter && (!dialled || gone > forgetAfter) {
			l.leave(ctx, false)
		}
		run.Pause(ctx, wait)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// renew asks the peer how it is.
func (l *link) renew(ctx context.Context) error {
	n := l.node
	data, err := json.Marshal(linkRequest{Node: n.Node, Version: n.Version, Dials: l.dials(), At: n.Now().UnixNano()})
	if err != nil {
		return fmt.Errorf("encode link question: %w", err)
	}
	own, cancel := context.WithTimeout(ctx, l.patience())
	defer cancel()
	start, asked := time.Now(), n.Now()
	raw, err := n.Ask(own, l.Name, linkQuestion, data)
	rtt := time.Since(start)
	var answer linkAnswer
	if err == nil {
		err = json.Unmarshal(raw, &answer)
	}
	if answer.At != 0 {
		ahead := offset(asked, asked.Add(rtt), answer.At)
		l.mu.Lock()
		if !l.state.trusting {
			l.state.offset = ahead
		}
		l.mu.Unlock()
	}
	l.record(ctx, answer, rtt, err)
	l.listen(ctx, err)
	return err
}

// patience is how long to wait for the peer's answer.
func (l *link) patience() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.state; s.up || s.rtt > askFirst/4 || s.deaf > 0 {
		return askTimeout
	}
	return askFirst
}

// listen closes a connection on which nothing comes back any more.
func (l *link) listen(ctx context.Context, err error) {
	l.mu.Lock()
	l.state.deaf++
	if !errors.Is(err, context.DeadlineExceeded) {
		l.state.deaf = 0
	}
	deaf := l.state.deaf >= deafAfter && !l.state.trusting
	if deaf {
		l.state.deaf = 0
	}
	l.mu.Unlock()
	if !deaf || ctx.Err() != nil {
		return
	}
	if n := l.node.dropLeaf(l.Name); n > 0 {
		l.node.metrics.wedged.WithLabelValues(l.Name).Inc()
		l.node.history.incident(l.Name, "wedged")
		l.node.Log.WarnContext(ctx, "link connection is dead and was closed", "site", l.Name, "connections", n)
	}
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
		l.state.problem = cmp.Or(l.node.refusal(l.Name), err.Error())
	}
	if up {
		l.state.rtt, l.state.peer = rtt, answer
	}
	l.mu.Unlock()
	switch {
	case up && !was:
		l.node.admit(l.Name)
		l.node.Log.InfoContext(ctx, "link up", "site", l.Name, "node", answer.Node, "rtt", rtt)
	case was && !up:
		l.node.Log.WarnContext(ctx, "link down", "site", l.Name, "err", err)
	}
}

// answer tells the peer how this site is.
func (l *link) answer(ctx context.Context, m *nats.Msg) {
	n := l.node
	answer := linkAnswer{Node: n.Node, Version: n.Version, At: n.Now().UnixNano()}
	var req linkRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		answer.Problem = err.Error()
	} else if req.Dials {
		l.mu.Lock()
		l.state.peerDials = true
		l.mu.Unlock()
		l.leave(ctx, true)
	}
	data, err := json.Marshal(answer)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		n.Log.WarnContext(ctx, "link question not answered", "site", l.Name, "err", err)
	}
}
