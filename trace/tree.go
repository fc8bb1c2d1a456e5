package trace

// Relation says why a row stands where it stands.
type Relation string

// The relations of a row to the row it hangs under.
const (
	RelRoot   Relation = "root"   // began the trace
	RelChild  Relation = "child"  // the row above it is its parent span
	RelCause  Relation = "cause"  // its parent is unknown or in no trace; the event above caused its event
	RelLink   Relation = "link"   // began a trace of its own and links to the row above it
	RelOrphan Relation = "orphan" // its parent span is not known here (yet): another site, sampling, or lost
)

// Row is a span at its place in the tree.
type Row struct {
	*Span
	Depth    int      `json:"depth"`
	Relation Relation `json:"relation"`
	Under    string   `json:"under,omitempty"` // id of the span it hangs under
}

// Tree puts spans, sorted by start, into drawing order: each row stands below the row it hangs under, siblings by
// start. Every span comes out exactly once, whatever its parents, links and causes claim.
func Tree(spans []*Span) []Row {
	t := tree{byID: make(map[string]*Span, len(spans)), under: map[*Span]*Span{}, rel: map[*Span]Relation{}, about: map[string]*Span{}}
	for _, s := range spans {
		t.byID[s.TraceID+s.SpanID] = s
		t.note(s)
	}
	for _, s := range spans {
		t.place(s)
	}
	children := map[*Span][]*Span{}
	for _, s := range spans {
		children[t.under[s]] = append(children[t.under[s]], s)
	}
	rows := make([]Row, 0, len(spans))
	var draw func(s *Span, depth int)
	draw = func(s *Span, depth int) {
		row := Row{Span: s, Depth: depth, Relation: t.rel[s]}
		if up := t.under[s]; up != nil {
			row.Under = up.SpanID
		}
		rows = append(rows, row)
		for _, child := range children[s] {
			draw(child, depth+1)
		}
	}
	for _, s := range children[nil] {
		draw(s, 0)
	}
	return rows
}

type tree struct {
	byID  map[string]*Span // by trace id and span id
	about map[string]*Span // event id -> the span that stands for the event as a cause
	under map[*Span]*Span
	rel   map[*Span]Relation
}

// note remembers which span stands for an event: the one that processed it, else the one that published it.
func (t *tree) note(s *Span) {
	id := s.EventID()
	if id == "" {
		return
	}
	known := t.about[id]
	if known == nil || (known.Kind != "consumer" && s.Kind == "consumer") {
		t.about[id] = s
	}
}

// place finds the span s hangs under. A claim that would close a circle is ignored.
func (t *tree) place(s *Span) {
	if parent := t.byID[s.TraceID+s.ParentID]; s.ParentID != "" && t.hang(s, parent) {
		t.rel[s] = RelChild
		return
	}
	if t.hang(s, t.causeOf(s)) {
		t.rel[s] = RelCause
		return
	}
	for _, l := range s.Links {
		if t.hang(s, t.byID[l.TraceID+l.SpanID]) {
			t.rel[s] = RelLink
			return
		}
	}
	t.rel[s] = RelRoot
	if s.ParentID != "" {
		t.rel[s] = RelOrphan
	}
}

// causeOf is the span of the event that caused the event of s. Consumers of an event also carry its causation id;
// only the span that brought the event about hangs under the cause.
func (t *tree) causeOf(s *Span) *Span {
	id := s.CausationID()
	if id == "" || s.Kind == "consumer" {
		return nil
	}
	return t.about[id]
}

func (t *tree) hang(s, up *Span) bool {
	for at := up; at != nil; at = t.under[at] {
		if at == s {
			return false
		}
	}
	if up == nil {
		return false
	}
	t.under[s] = up
	return true
}
