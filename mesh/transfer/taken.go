package transfer

import (
	"slices"

	"weft.dev/weft/event"
)

// taken is what an importer took over while its filters were others than today:
// what passed those, up to a sequence of the exporter's stream.
type taken struct {
	Subjects []string `json:"subjects"`
	UpTo     uint64   `json:"upTo"`
}

// maxTaken bounds how many changes of the filters a position remembers.
const maxTaken = 16

// under is what a position has taken besides once a session goes on behind after
// under the filters subjects: wider ones make it begin earlier, narrower ones
// leave out what it has passed. back tells that the stream lost what it held
// behind after.
func (p position) under(subjects []string, after uint64, back bool) []taken {
	out := slices.Clone(p.Taken)
	if len(p.Subjects) > 0 {
		out = append(out, taken{p.Subjects, p.Seq})
	}
	for i := range out {
		if back {
			out[i].UpTo = min(out[i].UpTo, after)
		}
	}
	out = pass(out, subjects, after)
	return out[max(0, len(out)-maxTaken):]
}

// pass leaves out what a position under the filters subjects covers.
func pass(list []taken, subjects []string, upTo uint64) []taken {
	return slices.DeleteFunc(list, func(t taken) bool { return t.UpTo <= upTo && covers(subjects, t.Subjects) })
}

// has tells whether a message is among what was taken.
func has(list []taken, subject string, seq uint64) bool {
	return slices.ContainsFunc(list, func(t taken) bool {
		return seq <= t.UpTo && slices.ContainsFunc(t.Subjects, func(p string) bool { return event.Match(p, subject) })
	})
}

// covers tells whether every filter of inner lies within one of outer.
func covers(outer, inner []string) bool { return len(beyond(outer, inner)) == 0 }

// beyond are the filters of inner that lie within none of outer.
func beyond(outer, inner []string) (out []string) {
	for _, i := range inner {
		if !slices.ContainsFunc(outer, func(o string) bool { return event.Subset(i, o) }) {
			out = append(out, i)
		}
	}
	return out
}
