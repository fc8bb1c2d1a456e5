package mesh

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/httpd"
)

// Status is the state of a site as one of its nodes sees it.
type Status struct {
	Site    string         `json:"site"`
	Node    string         `json:"node"`
	Version string         `json:"version"`
	Nats    string         `json:"natsVersion"`
	At      time.Time      `json:"at"`
	Listen  Listen         `json:"listen"`
	Stream  StreamStatus   `json:"stream"`
	Nodes   []NodeStatus   `json:"nodes"`
	Streams []StreamStatus `json:"streams"`
	Links   []LinkStatus   `json:"links"`
	// Problem tells why the streams cannot be read.
	Problem string `json:"problem,omitempty"`
}

// Listen holds the addresses in use; empty means no listener.
type Listen struct {
	Client string `json:"client,omitempty"`
	Links  string `json:"links,omitempty"`
}

// NodeStatus is one node of the site.
type NodeStatus struct {
	Node    string `json:"node"`
	Version string `json:"version,omitempty"`
	Up      bool   `json:"up"`
	Self    bool   `json:"self"`   // it made this answer
	Leader  bool   `json:"leader"` // of EVENTS; it imports from the linked sites
	// ClusterSize is how many nodes the site has as this one knows it.
	ClusterSize int    `json:"clusterSize"`
	Listen      Listen `json:"listen"`
	Disk        *Disk  `json:"disk,omitempty"`
	// ClockOffset is how far its clock is ahead of this node's, in seconds.
	ClockOffset float64 `json:"clockOffsetSeconds"`
	Problem     string  `json:"problem,omitempty"`
}

// Disk is the file system that holds a node's data, in bytes.
type Disk struct {
	Free  uint64 `json:"free"`
	Total uint64 `json:"total"`
	// Full: the node takes no events until there is space.
	Full bool `json:"full,omitempty"`
}

// StreamStatus is the state of one stream.
type StreamStatus struct {
	Name     string     `json:"name"`
	Epoch    string     `json:"epoch,omitempty"`
	Messages uint64     `json:"messages"`
	Bytes    uint64     `json:"bytes"`
	MaxBytes int64      `json:"maxBytes,omitempty"`
	First    uint64     `json:"first"`
	Last     uint64     `json:"last"`
	FirstAt  *time.Time `json:"firstAt,omitempty"`
	LastAt   *time.Time `json:"lastAt,omitempty"`
	// Consumers draw from the stream.
	Consumers int `json:"consumers"`
	// Leader is the node that orders what is stored; empty: there is none.
	Leader   string    `json:"leader,omitempty"`
	Replicas []Replica `json:"replicas"`
}

// Replica is one node's copy of a stream.
type Replica struct {
	Node    string `json:"node"`
	Leader  bool   `json:"leader"`
	Up      bool   `json:"up"`
	Current bool   `json:"current"` // it has all that the leader has
	Lag     uint64 `json:"lag"`     // operations behind the leader
}

// Status reads the state of the site: what this node knows, and what the other
// nodes answer within gatherTime.
func (n *Node) Status(ctx context.Context) (Status, error) {
	own := n.report()
	st := Status{
		Site: n.Site, Node: n.Node, Version: n.Version, Nats: server.VERSION, At: time.Now(),
		Listen: own.Node.Listen, Links: own.Links, Nodes: []NodeStatus{}, Streams: []StreamStatus{},
	}
	if n.server() == nil {
		return st, errNotReady
	}
	var reading sync.WaitGroup
	var others []nodeReport
	peers := n.peers()
	reading.Go(func() { others = n.gather(ctx, peers) })
	streams, err := n.Streams(ctx)
	reading.Wait()
	if err != nil {
		st.Problem = "the streams cannot be read: " + err.Error()
	}
	st.Streams = streams
	if i := slices.IndexFunc(streams, func(s StreamStatus) bool { return s.Name == eventsStream }); i >= 0 {
		st.Stream = streams[i]
	}
	st.merge(own, others, peers)
	return st, nil
}

// merge puts the nodes' reports together. A link's state is that of the node
// that imports, which is the leader; without one it is the node's own view.
func (st *Status) merge(own nodeReport, others []nodeReport, peers []peer) {
	own.Node.Self = true
	reports := append([]nodeReport{own}, others...)
	for _, r := range reports {
		st.Nodes = append(st.Nodes, r.Node)
		if r.Node.Leader {
			st.Links = r.Links
		}
	}
	st.Links = append([]LinkStatus{}, st.Links...)
	for i := range st.Links {
		l := &st.Links[i]
		l.Connections = 0 // of all nodes: any of them may hold the connection
		for _, r := range reports {
			if j := slices.IndexFunc(r.Links, func(o LinkStatus) bool { return o.Site == l.Site }); j >= 0 {
				l.Connections += r.Links[j].Connections
			}
		}
	}
	for _, p := range peers {
		if slices.ContainsFunc(st.Nodes, func(s NodeStatus) bool { return s.Node == p.name }) {
			continue
		}
		s := NodeStatus{Node: p.name, ClusterSize: own.Node.ClusterSize, Problem: "it does not answer"}
		if !p.connected {
			s.Problem = "it is not connected"
		}
		st.Nodes = append(st.Nodes, s)
	}
	slices.SortFunc(st.Nodes, func(a, b NodeStatus) int { return strings.Compare(a.Node, b.Node) })
}

func (n *Node) listening(s *server.Server) Listen {
	var out Listen
	if n.cfg.Client.Listen != "" {
		out.Client = s.Addr().String()
	}
	if n.cfg.Links.Listen != "" {
		out.Links = n.linkAddr(s)
	}
	return out
}

// streamStatus reads a stream of a site of which node is the only one, unless
// the server says otherwise.
func streamStatus(i *jetstream.StreamInfo, node string) StreamStatus {
	st := StreamStatus{
		Name: i.Config.Name, Epoch: i.Config.Metadata[bus.MetaEpoch], Messages: i.State.Msgs, Bytes: i.State.Bytes,
		MaxBytes: max(i.Config.MaxBytes, 0), First: i.State.FirstSeq, Last: i.State.LastSeq, Consumers: i.State.Consumers,
	}
	if !i.State.FirstTime.IsZero() && i.State.Msgs > 0 {
		st.FirstAt = &i.State.FirstTime
	}
	if !i.State.LastTime.IsZero() {
		st.LastAt = &i.State.LastTime
	}
	if i.Cluster == nil || i.Cluster.Name == "" {
		st.Leader, st.Replicas = node, []Replica{{Node: node, Leader: true, Up: true, Current: true}}
		return st
	}
	st.Leader, st.Replicas = nodeName(i.Cluster.Leader), []Replica{}
	if st.Leader != "" {
		st.Replicas = append(st.Replicas, Replica{Node: st.Leader, Leader: true, Up: true, Current: true})
	}
	for _, p := range i.Cluster.Replicas {
		st.Replicas = append(st.Replicas, Replica{Node: nodeName(p.Name), Up: !p.Offline, Current: p.Current && !p.Offline, Lag: p.Lag})
	}
	slices.SortFunc(st.Replicas, func(a, b Replica) int { return strings.Compare(a.Node, b.Node) })
	return st
}

// Streams reads the state of every stream of the site.
func (n *Node) Streams(ctx context.Context) ([]StreamStatus, error) {
	if n.server() == nil {
		return nil, errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	out := []StreamStatus{}
	list := n.bus.JetStream().ListStreams(ctx)
	for i := range list.Info() {
		out = append(out, streamStatus(i, n.Node))
	}
	return out, list.Err()
}

// Handler serves GET /api/mesh, /api/mesh/doctor and /api/streams.
func (n *Node) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/mesh", func(w http.ResponseWriter, r *http.Request) {
		st, err := n.Status(r.Context())
		n.reply(w, r, st, err)
	})
	mux.HandleFunc("GET /api/mesh/doctor", func(w http.ResponseWriter, r *http.Request) {
		st, err := n.Status(r.Context())
		n.reply(w, r, Diagnose(st), err)
	})
	mux.HandleFunc("DELETE /api/mesh/nodes/{node}", n.serveRemove)
	mux.HandleFunc("GET /api/mesh/sites", func(w http.ResponseWriter, _ *http.Request) { httpd.WriteJSON(w, http.StatusOK, n.Directory()) })
	mux.HandleFunc("DELETE /api/mesh/sites/{site}", n.serveForget)
	mux.HandleFunc("GET /api/streams", func(w http.ResponseWriter, r *http.Request) {
		st, err := n.Streams(r.Context())
		n.reply(w, r, st, err)
	})
	return mux
}

func (n *Node) reply(w http.ResponseWriter, r *http.Request, v any, err error) {
	if err != nil {
		n.Log.WarnContext(r.Context(), "state not read", "path", r.URL.Path, "err", err)
		httpd.WriteProblem(w, httpd.Problem{
			Type: "unavailable", Status: http.StatusServiceUnavailable, RetryAfter: time.Second,
			Detail: "the mesh does not answer; it may be starting",
		})
		return
	}
	httpd.WriteJSON(w, http.StatusOK, v)
}
