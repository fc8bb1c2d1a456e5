package transfer

import (
	"reflect"
	"testing"
)

func TestTakenUnderOtherFilters(t *testing.T) {
	at := func(seq uint64, subjects ...string) position {
		return position{Epoch: "x", Seq: seq, Subjects: subjects}
	}
	tests := []struct {
		name     string
		from     position
		subjects []string
		after    uint64
		back     bool
		want     []taken
	}{
		{"the same", at(9, "ev.a.>"), []string{"ev.a.>"}, 9, false, nil},
		{"wider, from the first of the new", at(9, "ev.a.b.>"), []string{"ev.a.>"}, 3, false, []taken{{[]string{"ev.a.b.>"}, 9}}},
		{"wider, nothing new there", at(9, "ev.a.b.>"), []string{"ev.a.>"}, 9, false, nil},
		{"narrower", at(9, "ev.a.>"), []string{"ev.a.b.>"}, 9, false, []taken{{[]string{"ev.a.>"}, 9}}},
		{"from an earlier build", at(9), []string{"ev.a.>"}, 9, false, nil},
		{"the disk went back", at(9, "ev.a.b"), []string{"ev.a.c"}, 5, true, []taken{{[]string{"ev.a.b"}, 5}}},
		{
			"wider again",
			position{Seq: 20, Subjects: []string{"ev.a.b"}, Taken: []taken{{[]string{"ev.a.>"}, 9}}},
			[]string{"ev.a.>"},
			1, false,
			[]taken{{[]string{"ev.a.>"}, 9}, {[]string{"ev.a.b"}, 20}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.from.under(tt.subjects, tt.after, tt.back)
			if len(got)+len(tt.want) > 0 && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
	list := []taken{{[]string{"ev.a.>"}, 9}, {[]string{"ev.*.b"}, 20}}
	for _, h := range []struct {
		subject string
		seq     uint64
		want    bool
	}{{"ev.a.c", 9, true}, {"ev.a.c", 10, false}, {"ev.z.b", 20, true}, {"ev.z.c", 1, false}} {
		if has(list, h.subject, h.seq) != h.want {
			t.Errorf("has(%s, %d) = %t", h.subject, h.seq, !h.want)
		}
	}
	if left := pass(list, []string{"ev.a.>"}, 10); len(left) != 1 || left[0].UpTo != 20 {
		t.Errorf("left %v, want the second", left)
	}
}

func TestTakenIsBounded(t *testing.T) {
	p := position{Seq: 1, Subjects: []string{"ev.a.x"}}
	for i := range uint64(2 * maxTaken) {
		p.Taken = p.under([]string{"ev.a.b"}, i, false)
		p.Seq, p.Subjects = i+2, []string{[]string{"ev.a.c", "ev.a.d"}[i%2]}
	}
	if len(p.Taken) > maxTaken {
		t.Errorf("%d entries", len(p.Taken))
	}
}
