package trace

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Text writes the journey as `weft trace` shows it: a heading, then one line per span with its offset from the start,
// its duration, its place in the tree and where it ran, and below a line what is special about it.
func Text(w io.Writer, j *Journey) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "%s\n", j.Name)
	fmt.Fprintf(b, "started      %s\n", j.Start.UTC().Format("2006-01-02 15:04:05.000000 UTC"))
	fmt.Fprintf(b, "took         %s, %s at %s\n", span(j.End.Sub(j.Start)), plural(len(j.Rows), "span"), strings.Join(j.Sites, ", "))
	for _, id := range j.CorrelationIDs {
		if !slices.Contains(j.TraceIDs, id) { // a flow without an id of its own goes by its trace id
			fmt.Fprintf(b, "correlation  %s\n", id)
		}
	}
	for _, id := range j.TraceIDs {
		fmt.Fprintf(b, "trace        %s\n", id)
	}
	if j.Errors > 0 {
		fmt.Fprintf(b, "errors       %s failed\n", plural(j.Errors, "span"))
	}
	if j.Partial {
		fmt.Fprintf(b, "partial      no answer from %s: spans from there are missing\n", strings.Join(j.Silent, ", "))
	}
	if j.Truncated {
		fmt.Fprint(b, "truncated    there are more spans than one answer holds\n")
	}
	fmt.Fprintln(b)
	rows(b, j)
	if err := b.Flush(); err != nil {
		return fmt.Errorf("print journey: %w", err)
	}
	return nil
}

func rows(b *bufio.Writer, j *Journey) {
	branches := branches(j.Rows)
	width := len("SPAN")
	for i, r := range j.Rows {
		width = max(width, utf8.RuneCountInString(branches[i]+label(r)))
	}
	const note = "                      " // under the two time columns
	fmt.Fprintf(b, "%9s  %9s  %-*s  %s\n", "OFFSET", "TOOK", width, "SPAN", "WHERE")
	for i, r := range j.Rows {
		fmt.Fprintf(b, "%9s  %9s  %s%s  %s\n", "+"+span(r.Start.Sub(j.Start)), span(r.Duration()),
			branches[i], pad(label(r), width-utf8.RuneCountInString(branches[i])), r.Where())
		for _, line := range notes(r) {
			fmt.Fprintf(b, "%s%s%s\n", note, below(branches, j.Rows, i), line)
		}
	}
}

func label(r Row) string {
	if r.Status == StatusError {
		return "✗ " + r.Name
	}
	return r.Name
}

// notes are what a reader must know beyond the line itself.
func notes(r Row) (lines []string) {
	if r.Status == StatusError && r.StatusMessage != "" {
		lines = append(lines, "error: "+r.StatusMessage)
	}
	if id := r.CausationID(); id != "" && r.Kind == "producer" {
		lines = append(lines, "event "+r.EventID()+" caused by "+id)
	}
	switch r.Relation {
	case RelOrphan:
		lines = append(lines, "parent span "+r.ParentID+" is not known here")
	case RelLink:
		lines = append(lines, "linked: began trace "+r.TraceID)
	case RelCause:
		lines = append(lines, "follows the event above by its causation id")
	case RelRoot, RelChild:
	}
	return lines
}

// branches draws the lines that lead to each row.
func branches(rows []Row) []string {
	out := make([]string, len(rows))
	open := []bool{} // open[d]: another row of depth d follows under the same row
	for i := len(rows) - 1; i >= 0; i-- {
		depth := rows[i].Depth
		for len(open) <= depth {
			open = append(open, false)
		}
		var b strings.Builder
		for d := 1; d < depth; d++ {
			if open[d] {
				b.WriteString("│  ")
			} else {
				b.WriteString("   ")
			}
		}
		if depth > 0 {
			if open[depth] {
				b.WriteString("├─ ")
			} else {
				b.WriteString("└─ ")
			}
		}
		out[i] = b.String()
		open = open[:depth+1] // what lay deeper hung under another row
		open[depth] = true
	}
	return out
}

// below is the branch drawing for a note under row i.
func below(branches []string, rows []Row, i int) string {
	line := strings.NewReplacer("├─ ", "│  ", "└─ ", "   ").Replace(branches[i])
	if i+1 < len(rows) && rows[i+1].Depth > rows[i].Depth {
		return line + "│  "
	}
	return line + "   "
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// span prints a duration with three digits that matter.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
