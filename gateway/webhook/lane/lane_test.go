package lane_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/gateway/webhook/lane"
)

var update = flag.Bool("update", false, "write the golden traces anew")

var t0 = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

// script plays commands against a lane and writes down what it answers. The
// random number is always one half, so waits are exact.
//
//	offer N | page N.. upto M | due N attempt A | take | ok N | fail N [after D]
//	| gone N | settle N | meet | tick | wait D | head N | disable | enable
//	| rewind N | skip N | restart
type script struct {
	out     strings.Builder
	lim     lane.Limits
	l       *lane.Lane
	now     time.Time
	head    uint64
	running map[uint64]lane.Item
}

func (s *script) say(format string, args ...any) { fmt.Fprintf(&s.out, "    "+format+"\n", args...) }

func (s *script) run(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	num := func(i int) uint64 {
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	if !s.control(f[0], num) {
		s.step(t, f, num)
	}
	snap := s.l.Snapshot(s.head)
	w, r, st := s.l.Load()
	s.say("-> %s cursor %d, %d waiting, %d running, %d stored%s%s", s.l.Mode(), s.l.Cursor(s.head), w, r, st,
		s.at(", paused until ", s.l.Paused(s.now)), flagged(snap.Mode != s.l.Mode(), ", stored as "+string(snap.Mode)))
}

// control plays what an operator or a restart does.
func (s *script) control(word string, num func(int) uint64) bool {
	switch word {
	case "head":
		s.head = num(1)
	case "meet":
		s.say("%t", s.l.Meet(s.head, s.now))
	case "tick":
		s.say("%t", s.l.Tick(s.head, s.now))
	case "disable":
		s.say("due %d", len(s.l.Disable(s.head)))
	case "enable":
		s.l.Enable()
	case "rewind":
		s.l.Rewind(num(1), s.head)
	case "skip":
		s.say("lost %d", s.l.Skip(num(1)))
	case "restart":
		s.l = lane.New(s.lim, s.l.Snapshot(s.head))
	default:
		return false
	}
	return true
}

// step plays what happens to events.
func (s *script) step(t *testing.T, f []string, num func(int) uint64) {
	t.Helper()
	dur := func(i int) time.Duration {
		d, err := time.ParseDuration(f[i])
		if err != nil {
			t.Fatalf("%q: %v", f, err)
		}
		return d
	}
	switch f[0] {
	case "wait":
		s.now = s.now.Add(dur(1))
	case "offer":
		s.head = max(s.head, num(1))
		s.say("taken %t", s.l.Offer(lane.Item{Seq: num(1), Attempt: 1}, s.head, s.now))
	case "page":
		after, n, ok := s.l.Wants(s.now)
		s.say("wants after %d at most %d: %t", after, n, ok)
		if !ok {
			break
		}
		var items []lane.Item
		for i := 1; i < len(f) && f[i] != "upto"; i++ {
			items = append(items, lane.Item{Seq: num(i), Attempt: 1})
		}
		s.l.Feed(after, items, num(len(f)-1), s.now)
	case "due":
		later, ok := s.l.Due(lane.Item{Seq: num(1), Attempt: int(num(3))}, s.now, 0.5)
		s.say("taken %t%s", ok, s.at(" later ", later))
	case "take":
		it, ok := s.l.Take(s.now)
		if ok {
			s.running[it.Seq] = it
			s.say("begins %d attempt %d", it.Seq, it.Attempt)
		} else {
			s.say("nothing")
		}
	case "ok", "fail", "gone":
		if _, ok := s.running[num(1)]; !ok {
			t.Fatalf("%q: it is not running", f)
		}
		r := lane.Result{OK: f[0] == "ok", Gone: f[0] == "gone"}
		if len(f) > 3 && f[2] == "after" {
			r.RetryAfter = dur(3)
		}
		d := s.l.Finish(s.running[num(1)], r, lane.Moment{Head: s.head, Now: s.now, Rnd: 0.5})
		s.say("%s%s%s%s due %d", d.Verdict, s.at(" at ", d.At), flagged(d.Changed, " changed"), flagged(d.Disabled, " disabled"), len(d.Due))
		if d.Verdict == lane.Retry {
			s.l.Stored(1)
		}
	case "settle":
		s.l.Settle(s.running[num(1)])
	default:
		t.Fatalf("unknown command %q", f)
	}
}

func flagged(on bool, text string) string {
	if on {
		return text
	}
	return ""
}

func (s *script) at(prefix string, at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return prefix + "+" + at.Sub(t0).String()
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lim := lane.DefaultLimits()
			lim.Queue, lim.Concurrency, lim.Scheduled = 4, 3, 6
			s := &script{lim: lim, now: t0, running: map[uint64]lane.Item{}}
			s.l = lane.New(lim, lane.State{Mode: lane.Live})
			for line := range strings.Lines(string(old)) {
				line = strings.TrimRight(line, "\n")
				switch {
				case strings.HasPrefix(line, "    "):
				case line == "" || line[0] == '#':
					s.out.WriteString(line + "\n")
				default:
					s.out.WriteString(line + "\n")
					s.run(t, line)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(s.out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(old), s.out.String()); diff != "" && !*update {
				t.Errorf("trace differs (-golden +got):\n%s", diff)
			}
		})
	}
}

func TestSchedule(t *testing.T) {
	s := lane.DefaultSchedule()
	var total time.Duration
	for n := 1; ; n++ {
		d, ok := s.Wait(n, 0.5)
		if !ok {
			if n != 10 {
				t.Errorf("%d attempts, want 10", n)
			}
			break
		}
		total += d
		lo, _ := s.Wait(n, 0)
		hi, _ := s.Wait(n, 0.999999)
		if lo < d*79/100 || lo > d*81/100 || hi > d*121/100 || hi < d*119/100 {
			t.Errorf("wait %d is %s to %s, want %s +-20 %%", n, lo, hi, d)
		}
	}
	if want := 75*time.Hour + 35*time.Minute + 5*time.Second; total != want {
		t.Errorf("all waits take %s, want %s", total, want)
	}
	if _, ok := s.Wait(0, 0); ok {
		t.Error("attempt 0 has no wait")
	}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		give string
		want time.Duration
	}{
		{"", 0},
		{"120", 2 * time.Minute},
		{" 7 ", 7 * time.Second},
		{"-5", 0},
		{"1.5", 0},
		{"soon", 0},
		{"99999999999999999999", 0},
		{"18446744073709551615", 24 * time.Hour},
		{"Fri, 02 Jan 2026 03:01:00 GMT", time.Minute},
		{"Fri, 02 Jan 2026 02:00:00 GMT", 0},
		{"Fri, 02 Jan 2037 02:00:00 GMT", 24 * time.Hour},
	} {
		if got := lane.RetryAfter(tt.give, t0); got != tt.want {
			t.Errorf("RetryAfter(%q) = %s, want %s", tt.give, got, tt.want)
		}
	}
}
