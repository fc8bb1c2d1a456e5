package demo

import (
	"fmt"
	"testing"
	"time"
)

// clock is a hand-moved time.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestLedgerCountsEachSinkByItsSubjects(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	l := newLedger([]sink{{"browser", []string{">"}}, {"kafka", []string{"orders.>"}}}, c.now)
	sent := c.t
	l.accepted("1", "orders.created", sent)
	l.accepted("2", "payments.refused", sent)
	c.t = c.t.Add(20 * time.Millisecond)
	l.seen(0, "1")
	l.seen(1, "1")
	l.seen(1, "1")
	l.seen(0, "3") // seen before its 202 was read
	l.accepted("3", "orders.created", sent)

	total, got := l.report()
	if total != 3 {
		t.Errorf("accepted = %d, want 3", total)
	}
	want := []SinkReport{
		{Sink: "browser", Published: 3, Delivered: 2, Lost: 1},
		{Sink: "kafka", Published: 2, Delivered: 1, Duplicates: 1, Lost: 1},
	}
	for i, w := range want {
		g := got[i]
		if g.Published != w.Published || g.Delivered != w.Delivered || g.Duplicates != w.Duplicates || g.Lost != w.Lost {
			t.Errorf("%s = %+v, want %+v", w.Sink, g, w)
		}
	}
	if p := got[0].P50; p < 19 || p > 21 {
		t.Errorf("browser p50 = %v ms, want 20", p)
	}
	if n, _ := l.missing(); n != 2 {
		t.Errorf("missing = %d, want 2", n)
	}
}

func TestLedgerForgetsWhatIsSettled(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	l := newLedger([]sink{{"all", []string{">"}}}, c.now)
	for i := range sweepPeriod - 1 {
		id := string(rune('a'+i%26)) + time.Duration(i).String()
		l.accepted(id, "a", c.t)
		if i > 0 {
			l.seen(0, id)
		}
	}
	c.t = c.t.Add(2 * settled)
	l.accepted("last", "a", c.t)
	if n := len(l.entries); n != 2 {
		t.Errorf("entries = %d, want 2: the last and the one not yet seen", n)
	}
}

// What visitors publish reaches the sinks too, but no 202 of it is witnessed.
func TestLedgerForgetsForeignEvents(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	l := newLedger([]sink{{"all", []string{">"}}}, c.now)
	for i := range sweepPeriod - 1 {
		l.seen(0, fmt.Sprint(i))
	}
	c.t = c.t.Add(2 * settled)
	l.seen(0, "last")
	if n := len(l.entries); n != 1 {
		t.Errorf("entries = %d, want the last alone", n)
	}
}
