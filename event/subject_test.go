package event_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"weft.dev/weft/event"
)

func TestCheckSubjectAndPattern(t *testing.T) {
	long := strings.Repeat("a", event.MaxSubject)
	deep := strings.TrimSuffix(strings.Repeat("a.", event.MaxTokens), ".")
	tests := []struct {
		give             string
		subject, pattern bool
	}{
		{"orders", true, true},
		{"orders.eu.created-1_X", true, true},
		{long, true, true},
		{long + "a", false, false},
		{deep, true, true},
		{deep + ".a", false, false},
		{"", false, false},
		{".", false, false},
		{"a.", false, false},
		{".a", false, false},
		{"a..b", false, false},
		{"a b", false, false},
		{"ä", false, false},
		{"a/b", false, false},
		{"$JS.API", false, false},
		{"*", false, true},
		{">", false, true},
		{"a.*.c", false, true},
		{"a.>", false, true},
		{"*.*.>", false, true},
		{"a.>.c", false, false},
		{">.a", false, false},
		{">.>", false, false},
		{"a.*b", false, false},
		{"a.b>", false, false},
		{"a.**", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			for _, c := range []struct {
				what string
				err  error
				want bool
			}{{"subject", event.CheckSubject(tt.give), tt.subject}, {"pattern", event.CheckPattern(tt.give), tt.pattern}} {
				if (c.err == nil) != c.want {
					t.Errorf("%s: err = %v, want ok %v", c.what, c.err, c.want)
				}
				if c.err != nil {
					wantField(t, c.err, "subject")
				}
			}
		})
	}
	if !errors.Is(event.CheckSubject(long+"a"), event.ErrTooLarge) || !errors.Is(event.CheckSubject(deep+".a"), event.ErrTooLarge) {
		t.Error("a subject over a limit is not ErrTooLarge")
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern, subject string
		want             bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.c", false},
		{"a", "a.b", false},
		{"a.b", "a", false},
		{"*", "a", true},
		{"*", "a.b", false},
		{"a.*", "a.b", true},
		{"a.*", "a", false},
		{"*.b", "a.b", true},
		{">", "a", true},
		{">", "a.b.c", true},
		{"a.>", "a", false},
		{"a.>", "a.b.c", true},
		{"a.*.>", "a.b", false},
		{"a.*.>", "a.b.c", true},
		{"a", "ab", false},
		{"a.b", "a.bc", false},
		{">", "", false},
		{"*", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.pattern+" "+tt.subject, func(t *testing.T) {
			if got := event.Match(tt.pattern, tt.subject); got != tt.want {
				t.Errorf("Match = %v, want %v", got, tt.want)
			}
			if n := testing.AllocsPerRun(10, func() { event.Match(tt.pattern, tt.subject) }); n != 0 {
				t.Errorf("%v allocations, want 0", n)
			}
		})
	}
}

// words lists every sequence of 1 to n tokens.
func words(tokens []string, n int) [][]string {
	var out, last [][]string
	last = [][]string{nil}
	for range n {
		var next [][]string
		for _, w := range last {
			for _, t := range tokens {
				next = append(next, append(slices.Clone(w), t))
			}
		}
		out, last = append(out, next...), next
	}
	return out
}

// covers is the definition of a match, token by token.
func covers(pattern, subject []string) bool {
	if len(pattern) > 0 && pattern[len(pattern)-1] == ">" {
		n := len(pattern) - 1
		if len(subject) <= n {
			return false
		}
		pattern, subject = pattern[:n], subject[:n]
	}
	return slices.EqualFunc(pattern, subject, func(p, s string) bool { return p == "*" || p == s })
}

// TestPatternsAgainstModel compares Match, Subset and Overlap with their
// definition over all subjects of up to 4 tokens: patterns have up to 3, so a
// difference shows within one token more. The alphabet has a token that no
// pattern names, which tells `*` from the union of the named ones.
func TestPatternsAgainstModel(t *testing.T) {
	subjects := words([]string{"a", "b", "x"}, 4)
	var patterns [][]string
	for _, p := range words([]string{"a", "b", "*", ">"}, 3) {
		if i := slices.Index(p, ">"); i < 0 || i == len(p)-1 {
			patterns = append(patterns, p)
		}
	}
	sets := make([][]bool, len(patterns))
	for i, p := range patterns {
		sets[i] = make([]bool, len(subjects))
		text := strings.Join(p, ".")
		for j, s := range subjects {
			sets[i][j] = covers(p, s)
			if got := event.Match(text, strings.Join(s, ".")); got != sets[i][j] {
				t.Errorf("Match(%s, %s) = %v", text, strings.Join(s, "."), got)
			}
		}
	}
	for i, p := range patterns {
		for j, q := range patterns {
			subset, overlap := true, false
			for k := range subjects {
				subset = subset && (!sets[i][k] || sets[j][k])
				overlap = overlap || sets[i][k] && sets[j][k]
			}
			a, b := strings.Join(p, "."), strings.Join(q, ".")
			if got := event.Subset(a, b); got != subset {
				t.Errorf("Subset(%s, %s) = %v, want %v", a, b, got, subset)
			}
			if got := event.Overlap(a, b); got != overlap {
				t.Errorf("Overlap(%s, %s) = %v, want %v", a, b, got, overlap)
			}
		}
	}
}

func FuzzSubject(f *testing.F) {
	for _, s := range []string{"a.b", "a.*", "a.>", "*.b.>", "a..b", ">", "a.>.b", ""} {
		f.Add(s, "a.b.c", "a.>")
	}
	f.Fuzz(func(t *testing.T, p, s, q string) {
		subjectOK, patternOK := event.CheckSubject(s) == nil, event.CheckPattern(p) == nil
		if subjectOK && event.CheckPattern(s) != nil {
			t.Fatalf("%q is a subject but no pattern", s)
		}
		got := event.Match(p, s)
		if !subjectOK || !patternOK {
			return
		}
		if want := covers(strings.Split(p, "."), strings.Split(s, ".")); got != want {
			t.Errorf("Match(%q, %q) = %v, want %v", p, s, got, want)
		}
		if event.Subset(s, p) != got || event.Overlap(s, p) != got {
			t.Errorf("a subject is a pattern of one: Subset %v, Overlap %v, Match %v", event.Subset(s, p), event.Overlap(s, p), got)
		}
		site, path, ok := event.FromMesh(event.OnMesh("fra", s))
		if site != "fra" || path != s || !ok {
			t.Errorf("FromMesh(OnMesh(%q)) = %q %q %v", s, site, path, ok)
		}
		if event.Match(event.PatternOnMesh(p), event.OnMesh("fra", s)) != got {
			t.Errorf("PatternOnMesh(%q) differs on %q", p, s)
		}
		if event.CheckPattern(q) != nil {
			return
		}
		if event.Subset(p, q) && got && !event.Match(q, s) {
			t.Errorf("%q is in %q, which does not match %q", p, q, s)
		}
		if got && event.Match(q, s) && (!event.Overlap(p, q) || !event.Overlap(q, p)) {
			t.Errorf("%q and %q both match %q but do not overlap", p, q, s)
		}
	})
}

func TestFromMesh(t *testing.T) {
	tests := []struct {
		give, site, subject string
		ok                  bool
	}{
		{"ev.fra.orders.created", "fra", "orders.created", true},
		{"ev.fra", "", "", false},
		{"orders.created", "", "", false},
		{"evx.fra.a", "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			site, subject, ok := event.FromMesh(tt.give)
			if ok != tt.ok || ok && (site != tt.site || subject != tt.subject) {
				t.Errorf("got %q %q %v, want %q %q %v", site, subject, ok, tt.site, tt.subject, tt.ok)
			}
		})
	}
}
