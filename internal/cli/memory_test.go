package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A burst is told from quiet by what is allocated between looks.
func TestMemoryLook(t *testing.T) {
	const work, little = busyBytes, busyBytes - 1
	idle := step{percent: idleGC, release: true}
	repeat := func(n int, s uint64) (out []uint64) {
		for range n {
			out = append(out, s)
		}
		return out
	}
	tests := []struct {
		name string
		give []uint64     // bytes allocated between looks
		want map[int]step // by look, from 1; all others do nothing
	}{
		{"quiet after the start", repeat(windowLooks+10, little), map[int]step{quietLooks: idle, windowLooks: {release: true}}},
		{"steady work", repeat(windowLooks, work), nil},
		{"work with breaks", []uint64{work, little, little, little, work, little, little, little, work}, nil},
		{
			"work after quiet", append(repeat(quietLooks, little), work, work, little),
			map[int]step{quietLooks: idle, quietLooks + 1: {percent: nodeGC}},
		},
		{
			"quiet again", append(append(repeat(quietLooks, little), work), repeat(quietLooks, little)...),
			map[int]step{quietLooks: idle, quietLooks + 1: {percent: nodeGC}, 2*quietLooks + 1: idle},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := memory{allocated: 1 << 30}
			now := m.allocated
			got := map[int]step{}
			for i, s := range tt.give {
				now += s
				if act := m.look(now); act != (step{}) {
					got[i+1] = act
				}
			}
			if len(got)+len(tt.want) > 0 && !cmp.Equal(got, tt.want, cmp.AllowUnexported(step{})) {
				t.Error(cmp.Diff(tt.want, got, cmp.AllowUnexported(step{})))
			}
		})
	}
}
