package cli

import (
	"os"
	"runtime"
	"strconv"
	"strings"
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
		{"quiet after the start", repeat(40, little), map[int]step{quietLooks: idle, windowLooks: {release: true}}},
		{"steady work", repeat(40, work), nil},
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

// The process goes on after its binary's pages are out, with fewer of them.
func TestDropBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux drops pages")
	}
	before := rssFile(t)
	dropBinary()
	if after := rssFile(t); after >= before*9/10 {
		t.Errorf("%d kB of files in the process, and before it was %d kB", after, before)
	}
}

// rssFile is the resident size of mapped files in kB.
func rssFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	kb, err := strconv.Atoi(strings.Fields(rest + " ? ")[0])
	if err != nil {
		t.Fatalf("no RssFile in /proc/self/status: %v", err)
	}
	return kb
}
