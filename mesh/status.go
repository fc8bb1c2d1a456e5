package mesh

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/httpd"
)

// Status is the state of a node and its links.
type Status struct {
	Site    string       `json:"site"`
	Node    string       `json:"node"`
	Version string       `json:"version"`
	Nats    string       `json:"natsVersion"`
	Listen  Listen       `json:"listen"`
	Stream  StreamStatus `json:"stream"`
	Links   []LinkStatus `json:"links"`
}

// Listen holds the addresses in use; empty means no listener.
type Listen struct {
	Client string `json:"client,omitempty"`
	Links  string `json:"links,omitempty"`
}

// StreamStatus is the state of one stream.
type StreamStatus struct {
	Name     string     `json:"name"`
	Epoch    string     `json:"epoch,omitempty"`
	Messages uint64     `json:"messages"`
	Bytes    uint64     `json:"bytes"`
	First    uint64     `json:"first"`
	Last     uint64     `json:"last"`
	FirstAt  *time.Time `json:"firstAt,omitempty"`
	LastAt   *time.Time `json:"lastAt,omitempty"`
	// Consumers draw from the stream.
	Consumers int `json:"consumers"`
}

// LinkStatus is one link as this site sees it.
type LinkStatus struct {
	Site    string    `json:"site"`
	Node    string    `json:"node,omitempty"` // the peer's node that answered last
	Version string    `json:"version,omitempty"`
	Dials   bool      `json:"dials"` // this site dials
	Up      bool      `json:"up"`
	Since   time.Time `json:"since"`
	RTTMs   float64   `json:"rttMs"`
	Exports []string  `json:"exports"`
	Imports []string  `json:"imports"`
	// Events not yet taken over, by the peer and from the peer.
	LagOut uint64 `json:"lagOut"`
	LagIn  uint64 `json:"lagIn"`
	// LagInSeconds is the age of the last event taken over, while more wait.
	LagInSeconds float64 `json:"lagInSeconds"`
	Problem      string  `json:"problem,omitempty"`
}

// Status reads the node's state.
func (n *Node) Status(ctx context.Context) (Status, error) {
	st := Status{Site: n.Site, Node: n.Node, Version: n.Version, Nats: server.VERSION, Links: []LinkStatus{}}
	s := n.server()
	if s == nil {
		return st, errNotReady
	}
	st.Listen = n.listening(s)
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := n.bus.JetStream().Stream(ctx, eventsStream)
	if err != nil {
		return st, err
	}
	info := stream.CachedInfo()
	st.Stream = streamStatus(info)
	for _, l := range n.links {
		st.Links = append(st.Links, l.status())
	}
	return st, nil
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

func streamStatus(i *jetstream.StreamInfo) StreamStatus {
	st := StreamStatus{
		Name: i.Config.Name, Epoch: i.Config.Metadata[bus.MetaEpoch], Messages: i.State.Msgs, Bytes: i.State.Bytes,
		First: i.State.FirstSeq, Last: i.State.LastSeq, Consumers: i.State.Consumers,
	}
	if !i.State.FirstTime.IsZero() && i.State.Msgs > 0 {
		st.FirstAt = &i.State.FirstTime
	}
	if !i.State.LastTime.IsZero() {
		st.LastAt = &i.State.LastTime
	}
	return st
}

// status is what the link knows of itself.
func (l *link) status() LinkStatus {
	l.mu.Lock()
	s := l.state
	l.mu.Unlock()
	in, out := l.importer.State(), l.exporter.State()
	st := LinkStatus{
		Site: l.Name, Node: s.peer.Node, Version: s.peer.Version, Dials: len(l.URLs) > 0 && !s.yields,
		Up: s.up, Since: s.since, RTTMs: float64(s.rtt.Microseconds()) / 1000,
		Exports: slices.Concat([]string{}, l.Export), Imports: slices.Concat([]string{}, in.Filters),
		LagIn: in.Pending, LagInSeconds: in.Behind.Seconds(), LagOut: out.Pending, Problem: s.problem,
	}
	if st.Problem == "" {
		st.Problem = in.Problem
	}
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
		out = append(out, streamStatus(i))
	}
	return out, list.Err()
}

// Handler serves GET /api/mesh and GET /api/streams.
func (n *Node) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/mesh", func(w http.ResponseWriter, r *http.Request) {
		st, err := n.Status(r.Context())
		n.reply(w, r, st, err)
	})
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
