package mesh

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"weft.dev/weft/mesh/transfer"
)

// Severities of a finding, the worst first.
const (
	SeverityError   = "error"   // something is lost, stands still or soon will
	SeverityWarning = "warning" // it works, but not for long or not as it should
	SeverityInfo    = "info"
)

// Finding is one thing that is wrong, and what to do.
type Finding struct {
	Severity string `json:"severity"`
	Code     string `json:"code"`
	Subject  string `json:"subject"` // the site, node or stream
	What     string `json:"what"`
	Why      string `json:"why"`
	Do       string `json:"do"`
}

const (
	// maxClockOffset is how far clocks may be apart: ages and lags in seconds are
	// wrong by as much.
	maxClockOffset = 5 * time.Second
	// remembered is how long what is over is still reported; wedgedFor, if nothing
	// was lost by it.
	remembered = 24 * time.Hour
	wedgedFor  = 10 * time.Minute
	// linkGrace is how long a link may take to come up after the start.
	linkGrace = 5 * time.Second
	// diskLow is the free space, in bytes, below which the disk is about to be full.
	diskLow = 512 << 20
)

// Diagnosis is what the doctor says: the worst first.
type Diagnosis struct {
	Site     string    `json:"site"`
	Node     string    `json:"node"`
	At       time.Time `json:"at"`
	Findings []Finding `json:"findings"`
}

// Diagnose finds what is wrong in a site's state.
func Diagnose(st Status) Diagnosis {
	d := &Diagnosis{Site: st.Site, Node: st.Node, At: st.At, Findings: []Finding{}}
	d.quorum(st)
	for _, n := range st.Nodes {
		d.node(st, n)
	}
	for _, s := range st.Streams {
		d.stream(s)
	}
	for _, l := range st.Links {
		d.link(st, l)
		d.transfers(st, l)
		d.retention(st, l)
		d.past(st, l)
	}
	rank := []string{SeverityError, SeverityWarning, SeverityInfo}
	slices.SortStableFunc(d.Findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(rank, a.Severity), slices.Index(rank, b.Severity))
	})
	return *d
}

func (d *Diagnosis) add(f Finding) { d.Findings = append(d.Findings, f) }

// quorum looks at the site as a whole.
func (d *Diagnosis) quorum(st Status) {
	up := 0
	for _, n := range st.Nodes {
		if n.Up {
			up++
		}
	}
	size := len(st.Nodes)
	switch {
	case size > 1 && up <= size/2:
		d.add(Finding{
			Severity: SeverityError, Code: "no_quorum", Subject: st.Site,
			What: fmt.Sprintf("%d of the site's %d nodes are up; it takes %d to accept events.", up, size, size/2+1),
			Why:  "More than half of the nodes must agree on each event. Nothing is accepted or imported; what was accepted is kept.",
			Do:   "Start the nodes that are down; none can be removed until more than half are up.",
		})
	case st.Problem != "" || st.Stream.Leader == "":
		d.add(Finding{
			Severity: SeverityError, Code: "no_leader", Subject: eventsStream,
			What: "The stream of events has no leader" + because(st.Problem),
			Why:  "An election is under way, which takes seconds, or too few of the stream's replicas are up.",
			Do:   "If this stays for more than half a minute, look at the nodes below and start those that are down.",
		})
	}
	if size > 1 && size%2 == 0 {
		d.add(Finding{
			Severity: SeverityWarning, Code: "even_nodes", Subject: st.Site,
			What: fmt.Sprintf("The site has %d nodes, an even number.", size),
			Why:  fmt.Sprintf("It stands the loss of %d, as it would with %d nodes: the last one adds no safety.", (size-1)/2, size-1),
			Do:   "Add a node, or remove one: weft mesh remove NODE.",
		})
	}
}

func because(problem string) string {
	if problem == "" {
		return "."
	}
	return ": " + strings.TrimSuffix(problem, ".") + "."
}

func (d *Diagnosis) node(st Status, n NodeStatus) {
	if !n.Up {
		d.add(Finding{
			Severity: SeverityError, Code: "node_down", Subject: n.Node,
			What: fmt.Sprintf("Node %s is down: %s.", n.Node, n.Problem),
			Why:  "The process or the machine is gone, or the network between the nodes is cut.",
			Do:   fmt.Sprintf("Start it, or look at its log. If it is gone for good: weft mesh remove %s.", n.Node),
		})
		return
	}
	if n.Version != st.Version {
		d.add(Finding{
			Severity: SeverityInfo, Code: "version_differs", Subject: n.Node,
			What: fmt.Sprintf("Node %s runs version %s, this one %s.", n.Node, n.Version, st.Version),
			Why:  "A rolling upgrade is under way, or one node was forgotten.",
			Do:   "Bring all nodes of the site to one version.",
		})
	}
	d.clock(n.Node, "node "+n.Node, n.ClockOffset)
	if n.Disk == nil {
		return
	}
	d.disk(n.Node, *n.Disk, uint64(max(st.Stream.MaxBytes-int64(st.Stream.Bytes), 0)))
}

// disk looks at a node's disk, on which the stream may still grow.
func (d *Diagnosis) disk(node string, disk Disk, growth uint64) {
	f := Finding{
		Severity: SeverityWarning, Code: "disk_low", Subject: node,
		Do: "Free space, enlarge the disk, or set mesh.events.maxBytes to what it holds: that drops the oldest events at once.",
	}
	switch {
	case disk.Full:
		f.Severity, f.Code = SeverityError, "disk_full"
		f.What = fmt.Sprintf("The disk of node %s is full: %s left.", node, sizeOf(disk.Free))
		f.Why = "The node takes no events, so that it does not break off in the middle of a write. What it has acknowledged is kept; other nodes of the site go on."
		f.Do = "Free space or enlarge the disk: the node goes on by itself within seconds. What fills it may be something else than Weft."
	case disk.Free < diskLow:
		f.Severity = SeverityError
		f.What = fmt.Sprintf("The disk of node %s has %s left.", node, sizeOf(disk.Free))
		f.Why = "Below 64 MiB, or a twentieth of a small disk, the node accepts no events."
	case disk.Free < growth:
		f.What = fmt.Sprintf("The disk of node %s has %s left, but the stream may still grow by %s.", node, sizeOf(disk.Free), sizeOf(growth))
		f.Why = "mesh.events.maxBytes allows more than the disk holds: it fills up before the oldest events are dropped."
	case disk.Free < disk.Total/reserveShare:
		f.What = fmt.Sprintf("The disk of node %s has %s of %s left.", node, sizeOf(disk.Free), sizeOf(disk.Total))
		f.Why = "Less than a twentieth is free. The events have their space, but whatever else grows there takes it from them."
	default:
		return
	}
	d.add(f)
}

func (d *Diagnosis) clock(subject, who string, offset float64) {
	if math.Abs(offset) <= maxClockOffset.Seconds() {
		return
	}
	way := "ahead of"
	if offset < 0 {
		way = "behind"
	}
	d.add(Finding{
		Severity: SeverityWarning, Code: "clock_skew", Subject: subject,
		What: fmt.Sprintf("The clock of %s is %s %s this node's.", who, seconds(math.Abs(offset)), way),
		Why:  "One of the two machines has no working time service. Ages, lags in seconds and journeys over both are wrong by as much; no event is lost.",
		Do:   "Compare both machines with a third and set up NTP or chrony on the one that is wrong.",
	})
}

func (d *Diagnosis) stream(s StreamStatus) {
	if s.Leader == "" && s.Name != eventsStream { // that one is the site's
		d.add(Finding{
			Severity: SeverityError, Code: "no_leader", Subject: s.Name,
			What: fmt.Sprintf("Stream %s has no leader.", s.Name),
			Why:  "An election is under way, which takes seconds, or too few of its replicas are up.",
			Do:   "If this stays for more than half a minute, start the nodes that are down.",
		})
	}
	for _, r := range s.Replicas {
		if r.Current || !r.Up { // a node that is down has its own finding
			continue
		}
		d.add(Finding{
			Severity: SeverityWarning, Code: "replica_behind", Subject: r.Node,
			What: fmt.Sprintf("Node %s is %d operations behind in stream %s.", r.Node, r.Lag, s.Name),
			Why:  "It was away and catches up, or its disk or network is slower than the load.",
			Do:   "Wait until it has caught up before another node is stopped. If the number grows, look at its disk and network.",
		})
	}
}

// link looks at the connection.
func (d *Diagnosis) link(st Status, l LinkStatus) {
	who := "site " + l.Site
	if l.Up {
		d.clock(l.Site, who, l.ClockOffset)
		return
	}
	if st.At.Sub(l.Since) < linkGrace && !l.Refused {
		return
	}
	wedged := l.incident("wedged")
	since := fmt.Sprintf("The link to %s has been down for %s", who, seconds(st.At.Sub(l.Since).Seconds()))
	switch {
	case l.Refused:
		d.add(Finding{
			Severity: SeverityError, Code: "link_refused", Subject: l.Site,
			What: since + because(l.Problem),
			Why:  "The two sites reach each other, but a setting keeps them apart: a secret, a key, a certificate or a name.",
			Do:   "Set what is named at the site where it is wrong, and restart that node. It must be the same, or match, at both.",
		})
	case l.Connections > 0 || wedged.Last.After(l.Since.Add(-linkGrace)):
		d.add(Finding{
			Severity: SeverityError, Code: "link_wedged", Subject: l.Site,
			What: fmt.Sprintf("%s: a connection stands or stood, but nothing comes back (closed and dialled anew %d times since the start).", since, wedged.Count),
			Why:  "A firewall, NAT or load balancer between the sites dropped the connection without telling, the other machine hangs, or the path is cut silently.",
			Do:   "Check the path both ways and idle timeouts of middleboxes on it (30 s and more are safe). The node dials anew by itself; events wait meanwhile.",
		})
	default:
		d.add(Finding{
			Severity: SeverityError, Code: "link_down", Subject: l.Site,
			What: since + because(l.Problem),
			Why:  "The other site is down or cannot be reached, or only one of the two has a link to the other configured.",
			Do:   d.reach(l),
		})
	}
}

func (d *Diagnosis) reach(l LinkStatus) string {
	if l.Dials {
		return fmt.Sprintf("Check that site %s runs, that it has this site under mesh.links.sites, and that mesh.links.sites[].urls here is an address of its mesh.links.listen.", l.Site)
	}
	return fmt.Sprintf("Site %s dials: check that it runs, has this site's link address in its urls, and reaches it.", l.Site)
}

// transfers looks at what flows over a connection that stands.
func (d *Diagnosis) transfers(st Status, l LinkStatus) {
	if l.Up && l.Problem != "" {
		d.add(Finding{
			Severity: SeverityError, Code: "link_stalled", Subject: l.Site,
			What: fmt.Sprintf("Site %s answers, but its events are not taken over: %s.", l.Site, strings.TrimSuffix(l.Problem, ".")),
			Why:  "The connection lets questions through, but not events or their acknowledgements: a permission is missing, or the other site cannot read its stream.",
			Do:   fmt.Sprintf("Both sites must let each other send and receive all of wl.%s.%s.> and wl.%s.%s.>: look for other rules on the link user, also at servers between the sites. Then look at the log of site %s.", st.Site, l.Site, l.Site, st.Site, l.Site),
		})
	}
	if l.Up && l.Version != "" && l.Version != st.Version {
		d.add(Finding{
			Severity: SeverityInfo, Code: "version_differs", Subject: l.Site,
			What: fmt.Sprintf("Site %s runs version %s, this one %s.", l.Site, l.Version, st.Version),
			Why:  "Sites are upgraded one after the other.", Do: "Bring both to one version.",
		})
	}
}

// retention looks at what this site is about to drop, or has dropped, unread.
func (d *Diagnosis) retention(st Status, l LinkStatus) {
	if l.Headroom != nil && *l.Headroom < transfer.HeadroomLow {
		severity := SeverityWarning
		if *l.Headroom < transfer.HeadroomCritical {
			severity = SeverityError
		}
		d.add(Finding{
			Severity: severity, Code: "headroom_low", Subject: l.Site,
			What: fmt.Sprintf("%d events wait for site %s, and %.0f%% of the retention is left: then the oldest of them are dropped.", l.LagOut, l.Site, *l.Headroom*100),
			Why:  "The link is cut or too slow, and mesh.events.maxAge or maxBytes does not hold what has piled up.",
			Do:   "Bring the link back, or raise the limit that is reached first and restart the node.",
		})
	}
	if l.Lost == 0 {
		return
	}
	severity, when := SeverityInfo, "some time ago"
	if i := l.incident("lost"); i.Count > 0 && st.At.Sub(i.Last) < remembered {
		severity, when = SeverityError, fmt.Sprintf("the last ones %s ago", seconds(st.At.Sub(i.Last).Seconds()))
	}
	d.add(Finding{
		Severity: severity, Code: "events_lost", Subject: l.Site,
		What: fmt.Sprintf("%d events were dropped here before site %s had read them, %s.", l.Lost, l.Site, when),
		Why:  "The link was down for longer than mesh.events.maxAge, or more came than mesh.events.maxBytes holds.",
		Do:   "They are gone for that site: restore them from elsewhere if they matter. Raise the limit above the longest cut to be stood.",
	})
}

// past looks at what happened on a link and cannot be undone.
func (d *Diagnosis) past(st Status, l LinkStatus) {
	recent := func(kind string, within time.Duration) (Incident, bool) {
		i := l.incident(kind)
		return i, i.Count > 0 && st.At.Sub(i.Last) < within
	}
	if i, ok := recent("rolled_back", remembered); ok {
		d.add(Finding{
			Severity: SeverityError, Code: "rolled_back", Subject: l.Site,
			What: fmt.Sprintf("The stream of site %s went back to an earlier state %s ago.", l.Site, seconds(st.At.Sub(i.Last).Seconds())),
			Why:  "Its disk was restored from a backup or a snapshot, or lost what it had confirmed as written. Events it lost are still here; what it accepted since then is taken over.",
			Do:   fmt.Sprintf("Find out why at site %s. Its own consumers may have to be given the lost events again: their originals are in the stream of this site.", l.Site),
		})
	}
	if i, ok := recent("epoch", remembered); ok {
		d.add(Finding{
			Severity: SeverityWarning, Code: "stream_anew", Subject: l.Site,
			What: fmt.Sprintf("The stream of site %s was made anew %s ago.", l.Site, seconds(st.At.Sub(i.Last).Seconds())),
			Why:  "Its data directory was emptied or replaced. Its new events are taken over from the start.",
			Do:   "Nothing, if that was meant. Events that it had not exported before are lost.",
		})
	}
	if i, ok := recent("refused", remembered); ok {
		d.add(Finding{
			Severity: SeverityError, Code: "events_refused", Subject: l.Site,
			What: fmt.Sprintf("%d events of site %s could not be stored here and were left out.", i.Count, l.Site),
			Why:  "The stream refused them, such as for their size.",
			Do:   "The log of this node names each subject and reason.",
		})
	}
	if i, ok := recent("wedged", wedgedFor); ok && l.Up {
		d.add(Finding{
			Severity: SeverityWarning, Code: "link_wedged", Subject: l.Site,
			What: fmt.Sprintf("A dead connection to site %s was closed %s ago, %d times since the start; the link is up again.", l.Site, seconds(st.At.Sub(i.Last).Seconds()), i.Count),
			Why:  "Something between the sites drops connections without telling.",
			Do:   "If it comes again, look for idle timeouts of firewalls and NAT on the path.",
		})
	}
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func sizeOf(bytes uint64) string {
	if bytes < 1<<30 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}
