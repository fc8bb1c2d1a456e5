package event

import "strings"

// CheckSubject reports why s is no Weft subject: 1 to 16 tokens of
// [A-Za-z0-9_-] joined by dots, at most 255 bytes.
func CheckSubject(s string) error { return checkTokens("subject", s, false) }

// CheckPattern reports why p is no Weft pattern: a subject whose tokens may be
// `*`, and whose last token may be `>`.
func CheckPattern(p string) error { return checkTokens("subject", p, true) }

func checkTokens(field, s string, wild bool) error {
	if s == "" {
		return rejected(field, "a dotted name such as orders.created")
	}
	if len(s) > MaxSubject {
		return tooLarge(field, "at most 255 bytes", MaxSubject)
	}
	n := 0
	for tok := range strings.SplitSeq(s, ".") {
		n++
		if wild && (tok == "*" || tok == ">" && strings.HasSuffix(s, ">") && n == strings.Count(s, ".")+1) {
			continue
		}
		if !token(tok) {
			want := "dot-separated tokens of letters, digits, _ and -"
			if wild {
				want += ", or * for one token and > for the rest at the end"
			}
			return rejected(field, want)
		}
	}
	if n > MaxTokens {
		return tooLarge(field, "at most 16 tokens", MaxTokens)
	}
	return nil
}

func token(t string) bool {
	for i := range len(t) {
		c := t[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return t != ""
}

// Match reports whether subject matches pattern by the NATS rules: `*` is one
// token, a final `>` is one or more. It allocates nothing.
func Match(pattern, subject string) bool {
	for {
		p, prest, pmore := strings.Cut(pattern, ".")
		if p == ">" {
			return subject != ""
		}
		s, srest, smore := strings.Cut(subject, ".")
		if p != "*" && p != s || s == "" || pmore != smore {
			// `a.>` needs a further token; `a.*` and `a` need equal lengths.
			return false
		}
		if !pmore {
			return true
		}
		pattern, subject = prest, srest
	}
}

// Subset reports whether every subject that inner matches is matched by outer.
func Subset(inner, outer string) bool {
	for {
		o, orest, omore := strings.Cut(outer, ".")
		if o == ">" {
			return inner != ""
		}
		i, irest, imore := strings.Cut(inner, ".")
		if i == ">" || i == "*" && o != "*" || o != "*" && i != o || imore != omore {
			return false
		}
		if !omore {
			return true
		}
		outer, inner = orest, irest
	}
}

// Overlap reports whether some subject is matched by both patterns.
func Overlap(a, b string) bool {
	for {
		x, xrest, xmore := strings.Cut(a, ".")
		y, yrest, ymore := strings.Cut(b, ".")
		if x == ">" || y == ">" {
			return true
		}
		if x != y && x != "*" && y != "*" || xmore != ymore {
			return false
		}
		if !xmore {
			return true
		}
		a, b = xrest, yrest
	}
}

// Prefix of every event subject on NATS; the origin site follows it.
const meshPrefix = "ev."

// OnMesh is the NATS subject of an event accepted at site: ev.<site>.<subject>.
func OnMesh(site, subject string) string { return meshPrefix + site + "." + subject }

// PatternOnMesh is the NATS filter for a Weft pattern over all origins.
func PatternOnMesh(pattern string) string { return "ev.*." + pattern }

// FromMesh splits a NATS event subject into its origin site and Weft subject.
func FromMesh(natsSubject string) (site, subject string, ok bool) {
	rest, ok := strings.CutPrefix(natsSubject, meshPrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ".")
}
