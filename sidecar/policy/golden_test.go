package policy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/sidecar/policy"
)

var update = flag.Bool("update", false, "write the results in testdata anew")

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A golden file is a script with its trace. Its first line names the subject
// and its settings; each further line is `time operation [argument…] | result`.
// Lines that begin with # are comments.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(want), got); diff != "" && !*update {
				t.Errorf("trace differs (-want +got):\n%s", diff)
			}
		})
	}
}

func replay(t *testing.T, script string) string {
	t.Helper()
	var step func(at time.Duration, words []string) string
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		given, _, _ := strings.Cut(line, "|")
		given = strings.TrimRight(given, " ")
		words := strings.Fields(given)
		switch {
		case len(words) == 0 || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		case step == nil:
			fmt.Fprintln(&out, given)
			step = subject(t, words[0], settings(words[1:]))
		default:
			at, err := time.ParseDuration(words[0])
			if err != nil {
				t.Fatalf("line %q: %v", line, err)
			}
			fmt.Fprintf(&out, "%-26s | %s\n", given, step(at, words[1:]))
		}
	}
	return out.String()
}

type set map[string]string

func settings(words []string) set {
	s := set{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		s[k] = v
	}
	return s
}

func (s set) duration(k string) time.Duration {
	d, err := time.ParseDuration(s[k])
	if err != nil {
		return 0
	}
	return d
}

func (s set) number(k string) float64 {
	f, err := strconv.ParseFloat(s[k], 64)
	if err != nil {
		return 0
	}
	return f
}

func subject(t *testing.T, name string, s set) func(time.Duration, []string) string {
	t.Helper()
	switch name {
	case "breaker":
		return breakerScript(t, s)
	case "limiter":
		return limiterScript(t, s)
	case "retry":
		r := policy.Retry{
			MaxAttempts: int(s.number("attempts")), InitialInterval: s.duration("initial"),
			MaxInterval: s.duration("max"), Jitter: s.number("jitter"),
		}
		try := 0
		return func(_ time.Duration, words []string) string { // the operation is the random number
			try++
			random, _ := strconv.ParseFloat(words[0], 64)
			return fmt.Sprintf("try %d wait=%s exhausted=%t", try, r.Wait(try, random), r.Exhausted(try))
		}
	}
	t.Fatalf("unknown subject %q", name)
	return nil
}

func limiterScript(t *testing.T, s set) func(time.Duration, []string) string {
	t.Helper()
	rate, err := policy.ParseRate(s["rate"])
	if err != nil {
		t.Fatal(err)
	}
	l := policy.NewLimiter(rate, int(s.number("burst")), t0)
	return func(at time.Duration, words []string) string {
		now := t0.Add(at)
		n, _ := strconv.Atoi(words[1])
		d := l.Take(now, n, settings(words[2:]).duration("delay"))
		verdict := "pass"
		switch {
		case !d.OK:
			verdict = "refuse"
		case d.Wait > 0:
			verdict = "delay"
		}
		return fmt.Sprintf("%-6s wait=%s tokens=%d", verdict, d.Wait, l.Tokens(now))
	}
}

func breakerScript(t *testing.T, s set) func(time.Duration, []string) string {
	t.Helper()
	kind, size, _ := strings.Cut(s["window"], "/")
	w, err := policy.ParseWindow(policy.WindowType(kind), size)
	if err != nil {
		t.Fatal(err)
	}
	var moves []string
	b := policy.NewBreaker(policy.BreakerConfig{
		FailureRateThreshold: s.number("failure"), SlowCallRateThreshold: s.number("slow"),
		SlowCallDurationThreshold: s.duration("slowAfter"), Window: w,
		MinimumNumberOfCalls:    int(s.number("minimum")),
		WaitDurationInOpenState: s.duration("wait"), MaxWaitDurationInOpenState: s.duration("maxWait"),
		PermittedNumberOfCallsInHalfOpenState: int(s.number("probes")),
	}, func() float64 { return 0.5 }, func(from, to policy.State) {
		moves = append(moves, from.String()+">"+to.String())
	})
	held := map[string]policy.Permit{}
	return func(at time.Duration, words []string) string {
		moves = nil
		res := breakerStep(b, held, t0.Add(at), words)
		f, sl, n := b.Rates(t0.Add(at))
		return strings.TrimSpace(fmt.Sprintf("%-14s %-9s failed=%.0f%% slow=%.0f%% of %d  %s",
			res, b.State(), f, sl, n, strings.Join(moves, " ")))
	}
}

// breakerStep runs `ok|fail|slow` as a whole call, or `begin NAME` and then
// `end NAME ok|fail|slow|release|trip`.
func breakerStep(b *policy.Breaker, held map[string]policy.Permit, now time.Time, words []string) string {
	name := "call"
	if words[0] != "end" {
		if words[0] == "begin" {
			name = words[1]
		}
		p, wait, ok := b.Acquire(now)
		if !ok {
			return "refused " + wait.String()
		}
		held[name] = p
		if words[0] == "begin" {
			return "permitted"
		}
		words = []string{"end", name, words[0]}
	}
	p := held[words[1]]
	delete(held, words[1])
	switch words[2] {
	case "release":
		b.Release(p)
	case "trip":
		b.Trip(now, p)
	default:
		took := time.Millisecond
		if words[2] == "slow" {
			took = time.Hour
		}
		b.Record(now, p, words[2] == "fail", took)
	}
	return "done"
}

func TestGoldenCoversEveryTransition(t *testing.T) {
	want := []string{
		"CLOSED>OPEN", "OPEN>HALF_OPEN", "HALF_OPEN>OPEN", "HALF_OPEN>CLOSED",
	}
	files, err := filepath.Glob("testdata/breaker*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	want = slices.DeleteFunc(want, func(move string) bool { return strings.Contains(all.String(), move) })
	if len(want) > 0 {
		t.Errorf("no golden trace holds %v", want)
	}
}
