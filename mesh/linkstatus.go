package mesh

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// LinkStatus is one link as this site sees it.
type LinkStatus struct {
	Site    string `json:"site"`
	Node    string `json:"node,omitempty"` // the peer's node that answered last
	Version string `json:"version,omitempty"`
	Dials   bool   `json:"dials"` // this site dials
	Up      bool   `json:"up"`
	// Connections between the sites that stand, whether the peer answers or not.
	Connections int       `json:"connections"`
	Since       time.Time `json:"since"`
	RTTMs       float64   `json:"rttMs"`
	Exports     []string  `json:"exports"`
	Imports     []string  `json:"imports"`
	// Importing and Exporting tell whether a session of that direction is open.
	Importing bool `json:"importing"`
	Exporting bool `json:"exporting"`
	// Epoch of the peer's stream: another one means it was made anew.
	Epoch string `json:"epoch,omitempty"`
	// Taken and Sent count events since the node's start.
	Taken uint64 `json:"taken"`
	Sent  uint64 `json:"sent"`
	// Events not yet taken over, by the peer and from the peer.
	LagOut uint64 `json:"lagOut"`
	LagIn  uint64 `json:"lagIn"`
	// Headroom is the share of the retention left for what the peer has not taken:
	// 1 all, 0 none; nothing if this node does not know.
	Headroom *float64 `json:"headroom,omitempty"`
	// Lost counts events removed before the peer took them, ever.
	Lost uint64 `json:"lost"`
	// LagInSeconds is the age of the last event taken over, while more wait.
	LagInSeconds float64 `json:"lagInSeconds"`
	// ClockOffset is how far the peer's clock is ahead of this node's, in seconds.
	ClockOffset float64 `json:"clockOffsetSeconds"`
	// Incidents are what went wrong since the node's start, and when last.
	Incidents []Incident `json:"incidents"`
	Problem   string     `json:"problem,omitempty"`
	// Refused: a setting here or at the peer is wrong, as Problem tells.
	Refused bool `json:"refused,omitempty"`
}

// Incident is what happened on a link, by the kinds of
// weft_mesh_link_incidents_total, wedged, and lost.
type Incident struct {
	Kind  string    `json:"kind"`
	Count uint64    `json:"count"`
	Last  time.Time `json:"last"`
}

// incident returns the incidents of a kind.
func (l LinkStatus) incident(kind string) Incident {
	if i := slices.IndexFunc(l.Incidents, func(i Incident) bool { return i.Kind == kind }); i >= 0 {
		return l.Incidents[i]
	}
	return Incident{}
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
		Importing: in.Session, Exporting: out.Session, Epoch: in.Epoch, Sent: out.Sent,
		LagIn: in.Pending, LagInSeconds: in.Behind.Seconds(), LagOut: out.Pending,
		ClockOffset: s.offset.Seconds(), Problem: s.problem,
	}
	if st.Problem == "" {
		st.Problem = in.Problem
	}
	if r := l.node.reason(l.Name); !st.Up && r.why != "" {
		st.Problem, st.Refused = r.why, r.setting
	}
	if out.Guarded {
		st.Headroom, st.Lost = &out.Headroom, out.Lost
	}
	l.node.history.fill(&st)
	return st
}

// linkStates are the links as this node sees them.
func (n *Node) linkStates() []LinkStatus {
	links := n.links.all()
	out := make([]LinkStatus, 0, len(links))
	standing := map[string]int{}
	if s := n.server(); s != nil {
		if leafs, err := s.Leafz(nil); err == nil {
			for _, l := range leafs.Leafs {
				site, _, _ := strings.Cut(l.Name, ":")
				standing[site]++
			}
		}
	}
	for _, l := range links {
		st := l.status()
		st.Connections = standing[l.Name]
		out = append(out, st)
	}
	return out
}

// history keeps what happened on the links since the start. It grows with the
// number of links and kinds alone.
type history struct {
	mu    sync.Mutex
	links map[string]*linkHistory // guarded by mu
}

type linkHistory struct {
	taken     uint64
	incidents []Incident
}

// of returns a link's history; the caller holds mu.
func (h *history) of(site string) *linkHistory {
	if h.links == nil {
		h.links = map[string]*linkHistory{}
	}
	if h.links[site] == nil {
		h.links[site] = &linkHistory{}
	}
	return h.links[site]
}

func (h *history) took(site string, events int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(site).taken += uint64(events)
}

func (h *history) incident(site, kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.of(site)
	i := slices.IndexFunc(l.incidents, func(i Incident) bool { return i.Kind == kind })
	if i < 0 {
		i, l.incidents = len(l.incidents), append(l.incidents, Incident{Kind: kind})
	}
	l.incidents[i].Count++
	l.incidents[i].Last = time.Now()
}

func (h *history) fill(st *LinkStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.of(st.Site)
	st.Taken, st.Incidents = l.taken, append([]Incident{}, l.incidents...)
}
