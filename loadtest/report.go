package loadtest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the result of one scenario. Its JSON form is stable within a minor
// version; WriteText is for people.
type Report struct {
	Scenario  string            `json:"scenario"`
	Run       string            `json:"run"` // stands in every event's data
	Server    string            `json:"server"`
	Settings  []Setting         `json:"settings"`
	Seconds   float64           `json:"seconds"`          // measured
	Accepted  uint64            `json:"accepted"`         // publishes answered 202 in measured time
	Rate      float64           `json:"publishPerSecond"` // of those
	Latency   Latency           `json:"publishLatency"`   // from due to answered
	Delivery  *Delivery         `json:"delivery,omitempty"`
	Errors    map[string]uint64 `json:"errors,omitempty"` // by kind
	ClientCPU float64           `json:"clientCpuSeconds"` // of the generator in measured time
	Compare   *Comparison       `json:"compare,omitempty"`
}

// Setting is one setting of the run.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Delivery is what came out at the far end. Counts cover the whole run, the rate
// and latency its measured time.
type Delivery struct {
	Expected      uint64  `json:"expected"`
	Delivered     uint64  `json:"delivered"` // distinct
	Lost          uint64  `json:"lost"`
	Duplicates    uint64  `json:"duplicates"`
	Disordered    uint64  `json:"outOfOrder"` // came after a later one of the same key
	BadSignatures uint64  `json:"badSignatures,omitempty"`
	Rate          float64 `json:"perSecond"`
	Latency       Latency `json:"latency"`        // from sent to received
	Drain         float64 `json:"drainSeconds"`   // from the last publish to the last delivery
	Ordered       bool    `json:"ordered"`        // the scenario promises order
	ExactlyOnce   bool    `json:"duplicatesFail"` // and no duplicates
}

// Comparison sets the first node against a second one, in alternating rounds.
type Comparison struct {
	Server     string    `json:"server"`
	Accepted   uint64    `json:"accepted"`
	Rate       float64   `json:"publishPerSecond"`
	Latency    Latency   `json:"publishLatency"`
	Ratio      float64   `json:"rateRatio"` // first by second
	P50Ratio   float64   `json:"p50Ratio"`
	Rounds     []float64 `json:"roundRatios"`
	MeasuredIn float64   `json:"seconds"`
}

// Failed tells what makes the run a failure: nothing accepted, something lost,
// or what the scenario promises not to happen.
func (r Report) Failed() error {
	if r.Accepted == 0 {
		return fmt.Errorf("load %s: no event was accepted", r.Scenario)
	}
	d := r.Delivery
	switch {
	case d == nil:
		return nil
	case d.Lost > 0:
		return fmt.Errorf("load %s: %d of %d deliveries lost", r.Scenario, d.Lost, d.Expected)
	case d.ExactlyOnce && d.Duplicates > 0:
		return fmt.Errorf("load %s: %d duplicates", r.Scenario, d.Duplicates)
	case d.Ordered && d.Disordered > 0:
		return fmt.Errorf("load %s: %d deliveries out of order", r.Scenario, d.Disordered)
	case d.BadSignatures > 0:
		return fmt.Errorf("load %s: %d wrong signatures", r.Scenario, d.BadSignatures)
	}
	return nil
}

// WriteText writes the report as a table.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	settings := make([]string, len(r.Settings))
	for i, s := range r.Settings {
		settings[i] = s.Name + " " + s.Value
	}
	fmt.Fprintf(&b, "%s  run %s\n%s\n\n", r.Scenario, r.Run, strings.Join(settings, ", "))
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if c := r.Compare; c != nil {
		r.writeCompare(tw, c)
	} else {
		fmt.Fprintf(tw, "server\t%s\n", r.Server)
		fmt.Fprintf(tw, "published\t%d in %.1f s\n", r.Accepted, r.Seconds)
		fmt.Fprintf(tw, "publish rate\t%.0f/s\n", r.Rate)
		fmt.Fprintf(tw, "publish latency\t%s\n", r.Latency)
	}
	if d := r.Delivery; d != nil {
		d.write(tw)
	}
	fmt.Fprintf(tw, "errors\t%s\n", errorText(r.Errors))
	if r.ClientCPU > 0 {
		fmt.Fprintf(tw, "generator CPU\t%.2f s (%.0f%% of one core)\n", r.ClientCPU, 100*r.ClientCPU/max(r.Seconds, 1e-9))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Report) writeCompare(w io.Writer, c *Comparison) {
	fmt.Fprintf(w, "server\tpublished\trate\tp50 ms\tp99 ms\tp99.9 ms\n")
	row := func(server string, n uint64, rate float64, l Latency) {
		fmt.Fprintf(w, "%s\t%d\t%.0f/s\t%.2f\t%.2f\t%.2f\n", server, n, rate, l.P50, l.P99, l.P999)
	}
	row(r.Server, r.Accepted, r.Rate, r.Latency)
	row(c.Server, c.Accepted, c.Rate, c.Latency)
	rounds := make([]string, len(c.Rounds))
	for i, v := range c.Rounds {
		rounds[i] = fmt.Sprintf("%.2f", v)
	}
	fmt.Fprintf(w, "ratio\t\t%.2fx\t%.2fx\n", c.Ratio, c.P50Ratio)
	fmt.Fprintf(w, "rounds\t%s\n", strings.Join(rounds, " "))
}

func (d *Delivery) write(w io.Writer) {
	fmt.Fprintf(w, "delivered\t%d of %d\n", d.Delivered, d.Expected)
	fmt.Fprintf(w, "lost\t%d\n", d.Lost)
	fmt.Fprintf(w, "duplicates\t%d\n", d.Duplicates)
	if d.Ordered {
		fmt.Fprintf(w, "out of order\t%d\n", d.Disordered)
	}
	if d.BadSignatures > 0 {
		fmt.Fprintf(w, "wrong signatures\t%d\n", d.BadSignatures)
	}
	fmt.Fprintf(w, "delivery rate\t%.0f/s\n", d.Rate)
	fmt.Fprintf(w, "delivery latency\t%s\n", d.Latency)
	fmt.Fprintf(w, "drained after\t%.2f s\n", d.Drain)
}

// String is the usual percentiles in one line.
func (l Latency) String() string {
	if l.Count == 0 {
		return "none"
	}
	return fmt.Sprintf("p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f ms", l.P50, l.P90, l.P99, l.P999, l.Max)
}

func errorText(errs map[string]uint64) string {
	if len(errs) == 0 {
		return "none"
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(errs)) {
		parts = append(parts, fmt.Sprintf("%s: %d", kind, errs[kind]))
	}
	return strings.Join(parts, ", ")
}

// report is the part of a Report that a pump's run gives.
func (p *pump) report(scenario string, extra ...Setting) Report {
	seconds := p.window().seconds()
	r := Report{
		Scenario: scenario, Run: p.run, Server: p.Server, Seconds: seconds,
		Accepted: p.accepted.Load(), Latency: p.latency.summary(),
		Errors: p.errs.into(nil), ClientCPU: p.cpu.Seconds(),
		Settings: append(extra, p.settings()...),
	}
	if seconds > 0 {
		r.Rate = float64(r.Accepted) / seconds
	}
	return r
}

func (l Load) settings() []Setting {
	loop := "closed"
	if l.Rate > 0 {
		loop = fmt.Sprintf("open at %g/s", l.Rate)
	}
	return []Setting{
		{"connections", fmt.Sprint(l.Connections)},
		{"size", fmt.Sprintf("%d B", max(l.Size, minSize))},
		{"loop", loop},
		{"duration", l.Duration.String()},
		{"warm-up", l.Warmup.String()},
	}
}

// expected is the number of events accepted over the whole run.
func (p *pump) expected() uint64 {
	n := uint64(0)
	for _, s := range p.streams {
		n += s.accepted.Load()
	}
	return n
}

const progressEvery = time.Second

// watch writes a line of progress every second until stop is called.
func watch(w io.Writer, scenario string, line func() string) (stop func()) {
	if w == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	begin := time.Now()
	go func() { // ends with stop
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case now := <-tick.C:
				fmt.Fprintf(w, "%s %4.0fs  %s\n", scenario, now.Sub(begin).Seconds(), line())
			}
		}
	}()
	return func() { close(done); <-ended }
}

// perSecond turns a running total into the rate since the last call.
func perSecond(total func() uint64) func() float64 {
	last, at := total(), time.Now()
	return func() float64 {
		n, now := total(), time.Now()
		rate := float64(n-last) / max(now.Sub(at).Seconds(), 1e-9)
		last, at = n, now
		return rate
	}
}
