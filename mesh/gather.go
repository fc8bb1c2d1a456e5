package mesh

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/mesh/gossip"
)

const (
	// statusSubject is where every node of a site answers how it is.
	statusSubject = "weft.mesh.status"
	// gatherTime is how long the other nodes may take to answer, and maxReports how
	// many answers are taken: no site is larger.
	gatherTime = 500 * time.Millisecond
	maxReports = 64
)

// nodeReport is what a node says of itself.
type nodeReport struct {
	Node  NodeStatus   `json:"node"`
	Links []LinkStatus `json:"links"`
	At    int64        `json:"at"` // its clock, Unix ns
}

// report is what this node says of itself. It asks nobody, so it can be had
// while the site has no leader.
func (n *Node) report() nodeReport {
	st := NodeStatus{Node: n.Node, Version: n.Version, Up: true, ClusterSize: 1, Disk: n.diskStatus()}
	if s := n.server(); s != nil {
		st.Listen, st.Leader = n.listening(s), n.leads()
		st.ClusterSize += len(n.peers())
	}
	return nodeReport{Node: st, Links: n.linkStates(), At: n.Now().UnixNano()}
}

// peer is another node of the site, as the server knows it.
type peer struct {
	name      string
	connected bool
}

// peers are the other nodes of the site, there or not.
func (n *Node) peers() []peer {
	s := n.server()
	if s == nil {
		return nil
	}
	info, err := s.Jsz(nil)
	if err != nil {
		return nil
	}
	var out []peer
	gossiping := n.Members() // a node whose disk is full is none to the server, but answers
	if info.Meta == nil {    // this node's is
		for _, m := range gossiping {
			if m.Node != n.Node {
				out = append(out, peer{name: m.Node, connected: true})
			}
		}
		return out
	}
	for _, p := range info.Meta.Replicas {
		if name := nodeName(p.Name); name != n.Node {
			there := slices.ContainsFunc(gossiping, func(m gossip.Member) bool { return m.Node == name })
			out = append(out, peer{name: name, connected: !p.Offline || there})
		}
	}
	if leader := nodeName(info.Meta.Leader); leader != "" && leader != n.Node && !named(out, leader) {
		out = append(out, peer{name: leader, connected: true})
	}
	return out
}

func named(peers []peer, name string) bool {
	for _, p := range peers {
		if p.name == name {
			return true
		}
	}
	return false
}

// nodeName is the node's in a server's name, which begins with the site.
func nodeName(server string) string {
	_, node, ok := strings.Cut(server, ":")
	if !ok {
		return server
	}
	return node
}

// gather asks the other nodes how they are. It waits for those that are
// connected, and no longer than gatherTime.
func (n *Node) gather(ctx context.Context, peers []peer) []nodeReport {
	want := 0
	for _, p := range peers {
		if p.connected {
			want++
		}
	}
	if want == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gatherTime)
	defer cancel()
	nc := n.bus.Conn()
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil
	}
	defer func() { _ = sub.Unsubscribe() }()
	asked := n.Now()
	if err := nc.PublishRequest(statusSubject, inbox, nil); err != nil {
		return nil
	}
	var out []nodeReport
	for seen := map[string]bool{n.Node: true}; len(out) < min(want, maxReports); {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break
		}
		var r nodeReport
		if json.Unmarshal(m.Data, &r) != nil || seen[r.Node.Node] || !named(peers, r.Node.Node) {
			continue
		}
		seen[r.Node.Node] = true
		r.Node.ClockOffset = offset(asked, n.Now(), r.At).Seconds()
		out = append(out, r)
	}
	return out
}

// offset estimates how far another clock is ahead of this one, which it read at
// some time between the question and the answer.
func offset(asked, answered time.Time, theirs int64) time.Duration {
	return time.Unix(0, theirs).Sub(asked.Add(answered.Sub(asked) / 2))
}

// reportStatus answers other nodes until ctx ends.
func (n *Node) reportStatus(ctx context.Context) error {
	sub, err := n.bus.Conn().Subscribe(statusSubject, func(m *nats.Msg) {
		if m.Reply == "" {
			return
		}
		data, err := json.Marshal(n.report())
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			n.Log.WarnContext(ctx, "status not answered", "err", err)
		}
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	_ = sub.Unsubscribe() // the connection ends next
	return nil
}
