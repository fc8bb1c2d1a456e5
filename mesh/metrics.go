package mesh

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics reads the node's state when it is scraped, and counts what links do.
type metrics struct {
	node                                      *Node
	imported, known, linkEvents, wedged, lost *prometheus.CounterVec
	messages, bytes, first, last              *prometheus.Desc
	linkUp, linkLagOut, linkLagIn, linkRTT    *prometheus.Desc
	linkClock, linkHeadroom                   *prometheus.Desc
	diskFree, diskFull                        *prometheus.Desc
	directory                                 refusedCounter
}

func newMetrics(n *Node) *metrics {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m := &metrics{
		node:       n,
		messages:   d("weft_stream_messages", "Messages in the stream.", "stream"),
		bytes:      d("weft_stream_bytes", "Bytes in the stream.", "stream"),
		first:      d("weft_stream_first_sequence", "First sequence in the stream.", "stream"),
		last:       d("weft_stream_last_sequence", "Last sequence in the stream.", "stream"),
		linkUp:     d("weft_mesh_link_up", "1 if the linked site answers.", "peer_site"),
		linkLagOut: d("weft_mesh_link_lag_out_events", "Events that the linked site has not taken yet.", "peer_site"),
		linkLagIn:  d("weft_mesh_link_lag_in_events", "Events of the linked site not taken yet.", "peer_site"),
		linkClock:  d("weft_mesh_link_clock_offset_seconds", "How far the clock of the linked site is ahead.", "peer_site"),
		linkHeadroom: d("weft_mesh_link_headroom_ratio",
			"Share of the retention left until events are removed that the linked site has not taken; on the node that leads the stream.", "peer_site"),
		diskFree: d("weft_mesh_disk_free_bytes", "Free space where the node keeps its data."),
		diskFull: d("weft_mesh_disk_full", "1 while the node takes no events because its disk is full."),
		linkRTT:  d("weft_mesh_link_rtt_seconds", "Round trip of the last question to the linked site.", "peer_site"),
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m.imported = counter("weft_mesh_link_imported_events_total", "Events taken over from the linked site.", "peer_site")
	m.known = counter("weft_mesh_link_known_events_total", "Events of other sites that another link had brought before this one.", "peer_site")
	m.linkEvents = counter("weft_mesh_link_incidents_total",
		"What happened on the link: duplicate (an event was here already), refused (an event could not be stored), restarted (a session ended), rolled_back (the peer's disk went back), epoch (the peer's stream was made anew).",
		"peer_site", "kind")
	m.wedged = counter("weft_mesh_link_wedged_total", "Connections to the linked site that were dead and closed.", "peer_site")
	m.lost = counter("weft_mesh_link_lost_events_total", "Events removed before the linked site took them.", "peer_site")
	m.directory = refusedCounter{counter("weft_mesh_directory_refused_total",
		"What was not taken into the directory of sites: busy, size, format, signature, version, role, clock, name, key, address, limit, forgotten.", "reason")}
	for _, l := range n.cfg.Links.Sites {
		m.lost.WithLabelValues(l.Name)
	}
	return m
}

func (m *metrics) register() {
	reg := m.node.Metrics
	if reg == nil {
		return
	}
	for _, c := range []prometheus.Collector{m, m.imported, m.known, m.linkEvents, m.wedged, m.lost, m.directory} {
		// A second node on one registry keeps its state to itself.
		_ = reg.Register(c)
	}
}

// refusedCounter counts what the directory does not take, by reason.
type refusedCounter struct{ *prometheus.CounterVec }

func (c refusedCounter) count(reason string) { c.WithLabelValues(reason).Inc() }

// linkCounter counts for one link.
type linkCounter struct {
	m    *metrics
	peer string
}

func (m *metrics) link(peer string) linkCounter { return linkCounter{m, peer} }

func (c linkCounter) incident(kind string) {
	c.m.linkEvents.WithLabelValues(c.peer, kind).Inc()
	c.m.node.history.incident(c.peer, kind)
}

func (c linkCounter) Imported(events int) {
	c.m.imported.WithLabelValues(c.peer).Add(float64(events))
	c.m.node.history.took(c.peer, events)
}

func (c linkCounter) Known(events int) {
	c.m.known.WithLabelValues(c.peer).Add(float64(events))
}

func (c linkCounter) Duplicate()  { c.incident("duplicate") }
func (c linkCounter) Refused()    { c.incident("refused") }
func (c linkCounter) Restarted()  { c.incident("restarted") }
func (c linkCounter) RolledBack() { c.incident("rolled_back") }
func (c linkCounter) Epoch()      { c.incident("epoch") }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if disk := m.node.diskStatus(); disk != nil {
		full := 0.0
		if disk.Full {
			full = 1
		}
		gauge(m.diskFree, float64(disk.Free))
		gauge(m.diskFull, full)
	}
	ctx := context.Background()
	streams, err := m.node.Streams(ctx)
	if err != nil {
		return
	}
	for _, s := range streams {
		gauge(m.messages, float64(s.Messages), s.Name)
		gauge(m.bytes, float64(s.Bytes), s.Name)
		gauge(m.first, float64(s.First), s.Name)
		gauge(m.last, float64(s.Last), s.Name)
	}
	for _, l := range m.node.links.all() {
		if x := l.exporter.State(); x.Guarded {
			gauge(m.linkHeadroom, x.Headroom, l.Name)
		}
	}
	for _, l := range m.node.linkStates() {
		up := 0.0
		if l.Up {
			up = 1
		}
		gauge(m.linkUp, up, l.Site)
		gauge(m.linkLagOut, float64(l.LagOut), l.Site)
		gauge(m.linkLagIn, float64(l.LagIn), l.Site)
		gauge(m.linkRTT, l.RTTMs/1000, l.Site)
		gauge(m.linkClock, l.ClockOffset, l.Site)
	}
}
