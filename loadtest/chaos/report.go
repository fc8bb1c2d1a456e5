package chaos

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// Report is the result of a run. Its JSON form is stable within a minor version.
type Report struct {
	Scenario string    `json:"scenario"`
	Seed     uint64    `json:"seed"`
	At       time.Time `json:"at"`
	Settings []Setting `json:"settings"`
	Seconds  float64   `json:"seconds"` // of publishing
	Accepted uint64    `json:"accepted"`
	Rate     float64   `json:"acceptedPerSecond"`
	Faults   []Event   `json:"faults"`
	// Stored is what every site's stream holds, Live what a consumer with a
	// cursor was given during the run.
	Stored []Row `json:"stored"`
	Live   []Row `json:"live"`

	Failed         []Failure   `json:"failedPublishes"`         // while the site had nodes
	FailedInOutage int         `json:"failedPublishesInOutage"` // all its nodes were killed
	Gaps           []Statistic `json:"publishGaps"`             // seconds, by kind of fault
	Levels         []Statistic `json:"levelTimes"`              // seconds, by kind of fault
	Reconnects     int         `json:"consumerReconnects"`
	EndLevel       float64     `json:"endLevelSeconds"`
	Complaints     []string    `json:"logComplaints,omitempty"`
	Problems       []string    `json:"problems,omitempty"` // what breaks the verdict beside the counts
}

// Setting is one setting of the run.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Event is a fault and what came of it, in seconds from the start of publishing.
type Event struct {
	Planned   float64 `json:"planned"`
	Kind      Kind    `json:"kind"`
	Target    string  `json:"target"`
	Plan      string  `json:"plan"` // all of the schedule's entry
	Began     float64 `json:"began"`
	Healed    float64 `json:"healed"`
	Whole     float64 `json:"wholeAfter,omitempty"` // seconds from healed
	Level     float64 `json:"levelAfter,omitempty"` // seconds from healed
	Disturbed bool    `json:"disturbed,omitempty"`
	Gap       float64 `json:"publishGap,omitempty"`
	Detail    string  `json:"detail,omitempty"`
	Skipped   bool    `json:"skipped,omitempty"`
	Problem   string  `json:"problem,omitempty"`
}

// Statistic sums up the times of one kind of fault, in seconds.
type Statistic struct {
	Kind  Kind    `json:"kind"`
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func (r *run) report(stored map[*site]*tracks, level time.Duration, levelled bool) Report {
	rep := Report{
		Scenario: "chaos", Seed: r.cfg.Seed, At: r.began.UTC(), Settings: r.settings(), Seconds: r.cfg.Duration.Seconds(),
		EndLevel: level.Seconds(), Stored: r.rows(stored), Failed: []Failure{}, Faults: []Event{},
	}
	if r.cfg.Only != "" {
		rep.Scenario = string(r.cfg.Only)
	}
	live := map[*site]*tracks{}
	for _, c := range r.consumers {
		live[c.site] = &c.tracks
		rep.Reconnects += c.reconnects
		for _, n := range c.notices {
			rep.Problems = append(rep.Problems, "the gateway told a consumer of a gap: "+n)
		}
	}
	rep.Live = r.rows(live)
	for _, p := range r.publishers {
		rep.Accepted += p.acked.count()
		r.failures(p, &rep)
	}
	rep.Rate = float64(rep.Accepted) / rep.Seconds
	if !levelled {
		rep.Problems = append(rep.Problems, fmt.Sprintf("the sites were not level %s after the last publish", r.cfg.Level))
	}
	r.events(&rep)
	r.logs(&rep)
	return rep
}

func (r *run) settings() []Setting {
	c := r.cfg
	return []Setting{
		{"sites", fmt.Sprintf("%d of %d nodes", c.Sites, c.Nodes)},
		{"edges", fmt.Sprintf("%d of %d homes", c.Edges, min(c.Homes, c.Sites))},
		{"duration", c.Duration.String()},
		{"rate", fmt.Sprintf("%g events/s", c.Rate)},
		{"publishers", fmt.Sprintf("%d at each site", c.Publishers)},
		{"batch", fmt.Sprintf("%d events a request", c.Batch)},
		{"size", fmt.Sprintf("%d B", c.Size)},
		{"publish timeout", c.Timeout.String()},
		{"full disks", r.disks()},
	}
}

// disks tells whether disks were filled.
func (r *run) disks() string {
	switch {
	case r.noDisks != nil:
		return "left out: no disk can be mounted here: " + r.noDisks.Error()
	case !slices.ContainsFunc(r.plan, func(f Fault) bool { return f.Kind == FullDisk }):
		return "none drawn"
	}
	return "as scheduled"
}

// failures adds a publisher's; while all nodes of its site are killed, there is
// nobody who could take an event.
func (r *run) failures(p *publisher, rep *Report) {
	_, edges := siteNames(r.cfg)
	for _, f := range p.failures() {
		f.At = f.at.Sub(r.began).Seconds()
		out := slices.ContainsFunc(r.outcomes, func(o *Outcome) bool {
			began := (f.at.Sub(r.began) - r.cfg.Timeout)
			return o.Target == f.Site && o.outage(edges) && !o.Skipped && began < max(o.Whole, o.Healed) && f.at.Sub(r.began) > o.Began
		})
		if out {
			rep.FailedInOutage++
		} else {
			rep.Failed = append(rep.Failed, f)
		}
	}
}

// events adds the faults and their statistics.
func (r *run) events(rep *Report) {
	gaps, levels := map[Kind][]float64{}, map[Kind][]float64{}
	for _, o := range r.outcomes {
		e := Event{
			Planned: o.At.Seconds(), Kind: o.Kind, Target: o.Target, Plan: o.Fault.String(), Began: o.Began.Seconds(), Healed: o.Healed.Seconds(),
			Level: o.Level.Seconds(), Disturbed: o.Disturbed, Gap: o.Gap.Seconds(), Detail: strings.TrimSpace(o.Detail),
			Skipped: o.Skipped, Problem: o.Problem,
		}
		if o.Whole > 0 {
			e.Whole = (o.Whole - o.Healed).Seconds()
		}
		rep.Faults = append(rep.Faults, e)
		switch {
		case o.Problem != "":
			rep.Problems = append(rep.Problems, fmt.Sprintf("%s %s: %s", o.Kind, o.Target, o.Problem))
		case o.Skipped:
		case !o.onLink():
			gaps[o.Kind] = append(gaps[o.Kind], e.Gap)
		case !o.Disturbed:
			levels[o.Kind] = append(levels[o.Kind], e.Level)
		}
	}
	rep.Gaps, rep.Levels = statistics(gaps), statistics(levels)
}

func statistics(of map[Kind][]float64) []Statistic {
	out := []Statistic{}
	for kind, v := range of {
		slices.Sort(v)
		rank := func(q float64) float64 { return v[max(0, int(math.Ceil(q*float64(len(v))))-1)] }
		out = append(out, Statistic{kind, len(v), rank(0.5), rank(0.99), v[len(v)-1]})
	}
	slices.SortFunc(out, func(a, b Statistic) int { return strings.Compare(string(a.Kind), string(b.Kind)) })
	return out
}

// shown bounds the lines of a log and the failures that a report shows.
const shown = 5

// logs adds what the nodes' logs tell, and what ended by itself.
func (r *run) logs(rep *Report) {
	for _, n := range r.world.nodes() {
		rep.Problems = append(rep.Problems, n.unwanted()...)
		defective, others := n.complaints()
		rep.Problems = append(rep.Problems, bounded(n.name, defective)...)
		rep.Complaints = append(rep.Complaints, bounded(n.name, others)...)
	}
}

// bounded are the first of a node's lines, and how many more there are.
func bounded(name string, lines []string) []string {
	if len(lines) <= shown {
		return lines
	}
	return append(lines[:shown:shown], fmt.Sprintf("%s: and %d more", name, len(lines)-shown))
}

// Failure tells what makes the run one: a promise was broken.
func (r Report) Failure() error {
	var errs []error
	count := func(what string, rows []Row) {
		var lost, dup, late uint64
		for _, row := range rows {
			lost, dup, late = lost+row.Lost, dup+row.Duplicated, late+row.Disordered
		}
		if lost+dup+late > 0 {
			errs = append(errs, fmt.Errorf("%s: %d lost, %d duplicated, %d out of order", what, lost, dup, late))
		}
	}
	if r.Accepted == 0 {
		errs = append(errs, errors.New("no event was accepted"))
	}
	count("stored", r.Stored)
	count("consumed", r.Live)
	if n := len(r.Failed); n > 0 {
		errs = append(errs, fmt.Errorf("%d failed publishes at sites that had nodes", n))
	}
	for _, p := range r.Problems {
		errs = append(errs, errors.New(p))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("load chaos, seed %d: %w", r.Seed, errors.Join(errs...))
}

// WriteText writes the report for a terminal.
func (r Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	r.write(tw, func(cells ...string) { fmt.Fprintln(tw, strings.Join(cells, "\t")) }, func(title string) { fmt.Fprintf(tw, "\n%s\n", title) })
	return tw.Flush()
}

// WriteMarkdown writes the report for docs/reports.
func (r Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	head := true
	fmt.Fprintf(&b, "# %s, seed %d\n", r.Scenario, r.Seed)
	row := func(cells ...string) {
		for i, c := range cells {
			cells[i] = strings.ReplaceAll(c, "|", "\\|")
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		if head {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(cells)))
		}
		head = false
	}
	r.write(&b, row, func(title string) { fmt.Fprintf(&b, "\n## %s\n\n", title); head = true })
	_, err := io.WriteString(w, b.String())
	return err
}

// write writes the report by title and row; what is prose goes to w.
func (r Report) write(w io.Writer, row func(cells ...string), title func(string)) {
	title("Verdict")
	if err := r.Failure(); err != nil {
		fmt.Fprintf(w, "BROKEN: %s\n", err)
	} else {
		fmt.Fprintf(w, "Kept: lost 0, duplicated 0, out of order 0 of %d accepted events.\n", r.Accepted)
	}
	title("Run")
	row("what", "value")
	row("begun", r.At.Format(time.RFC3339))
	row("seed", fmt.Sprint(r.Seed))
	for _, s := range r.Settings {
		row(s.Name, s.Value)
	}
	row("accepted", fmt.Sprintf("%d events, %.0f/s", r.Accepted, r.Rate))
	row("failed publishes", fmt.Sprintf("%d, and %d while all nodes of a site were killed", len(r.Failed), r.FailedInOutage))
	row("level at the end", fmt.Sprintf("%.2f s after the last publish", r.EndLevel))
	row("consumers resumed", fmt.Sprintf("%d times", r.Reconnects))
	for _, part := range []struct {
		title string
		rows  []Row
	}{{"Stored at every site", r.Stored}, {"Given to a consumer that resumes", r.Live}} {
		title(part.title)
		row("site", "origin", "accepted", "present", "lost", "duplicated", "out of order", "unacknowledged", "ids")
		for _, v := range part.rows {
			row(v.Site, v.Origin, fmt.Sprint(v.Accepted), fmt.Sprint(v.Present), fmt.Sprint(v.Lost), fmt.Sprint(v.Duplicated),
				fmt.Sprint(v.Disordered), fmt.Sprint(v.Extra), strings.Join(v.Examples, ", "))
		}
	}
	statistic := func(name string, list []Statistic) {
		title(name)
		row("fault", "count", "p50", "p99", "max")
		for _, s := range list {
			row(string(s.Kind), fmt.Sprint(s.Count), fmt.Sprintf("%.2f s", s.P50), fmt.Sprintf("%.2f s", s.P99), fmt.Sprintf("%.2f s", s.Max))
		}
	}
	statistic("Longest time without an acknowledgement at the site", r.Gaps)
	statistic("Time until both sites are level after a link heals, where nothing else disturbed it", r.Levels)
	r.writeFaults(row, title)
	list := func(name string, lines []string) {
		if len(lines) > 0 {
			title(name)
		}
		for _, l := range lines {
			fmt.Fprintf(w, "- %s\n", l)
		}
	}
	var failed []string
	for _, f := range r.Failed[:min(shown*2, len(r.Failed))] {
		failed = append(failed, fmt.Sprintf("%.1f s %s, %d events: %s", f.At, f.First, f.Events, f.Error))
	}
	list("Failed publishes", failed)
	list("Errors in the nodes' logs", r.Complaints)
}

func (r Report) writeFaults(row func(cells ...string), title func(string)) {
	title("Schedule and what came of it")
	row("planned", "fault", "began", "healed", "whole after", "level after", "publish gap", "notes")
	for _, f := range r.Faults {
		notes := []string{f.Detail, f.Problem}
		if f.Disturbed {
			notes = append(notes, "another fault at the same time")
		}
		if f.Skipped {
			notes = append(notes, "skipped: its target was still busy at the end of the run")
		}
		_, what, _ := strings.Cut(strings.TrimSpace(f.Plan), " s  ")
		row(fmt.Sprintf("%.1f s", f.Planned), strings.Join(strings.Fields(what), " "), fmt.Sprintf("%.1f s", f.Began), fmt.Sprintf("%.1f s", f.Healed),
			unlessZero(f.Whole), unlessZero(f.Level), unlessZero(f.Gap), strings.Join(slices.DeleteFunc(notes, func(s string) bool { return s == "" }), "; "))
	}
}

func unlessZero(s float64) string {
	if s == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f s", s)
}

// clock is how times of day are written.
const clock = "15:04:05.000"

// console writes lines with the time since the start.
type console struct {
	mu    sync.Mutex
	w     io.Writer // guarded by mu
	begin time.Time
}

func (c *console) printf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.w, "chaos %5.1fs  %s\n", time.Since(c.begin).Seconds(), fmt.Sprintf(format, args...))
}
