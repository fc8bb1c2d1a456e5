package mesh

import (
	"slices"
	"strings"

	"weft.dev/weft/event"
)

// crossing is what two lists of patterns share, as patterns that do not overlap
// if those of each list do not.
func crossing(a, b []string) []string {
	var out []string
	for _, p := range a {
		for _, q := range b {
			if event.CheckPattern(q) != nil {
				continue // the peer's mistake; it has refused it too
			}
			if s, ok := cross(p, q); ok {
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.DeleteFunc(out, func(p string) bool {
		return slices.ContainsFunc(out, func(q string) bool { return p != q && event.Subset(p, q) })
	})
}

// cross is the one pattern that matches what both p and q match.
func cross(p, q string) (string, bool) {
	a, b := strings.Split(p, "."), strings.Split(q, ".")
	var out []string
	for i := 0; ; i++ {
		switch {
		case i == len(a) && i == len(b):
			return strings.Join(out, "."), true
		case i == len(a) || i == len(b):
			return "", false // one ends where the other wants a token
		case a[i] == ">":
			return strings.Join(append(out, b[i:]...), "."), true
		case b[i] == ">":
			return strings.Join(append(out, a[i:]...), "."), true
		case a[i] == "*":
			out = append(out, b[i])
		case b[i] == "*" || a[i] == b[i]:
			out = append(out, a[i])
		default:
			return "", false
		}
	}
}
