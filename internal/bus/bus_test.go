package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
)

func make1(id string) event.Event {
	e := event.Event{ID: id, Data: []byte(`{"order":1}`), DataContentType: "application/json"}
	e.Fill(event.Defaults{Subject: "orders.created", Source: "/test", Now: time.Now()})
	return e
}

func publication(id string) bus.Publication {
	return bus.Publication{Subject: "orders.created", Event: make1(id)}
}

func TestPublishOne(t *testing.T) {
	b := wefttest.Node(t)
	ack, err := b.Publish(t.Context(), publication("1"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := event.ParseCursor(ack.Cursor)
	if err != nil || c.Seq != ack.Seq || c.Stream != bus.Stream || c.Epoch == "" {
		t.Errorf("cursor %q of seq %d: %+v, %v", ack.Cursor, ack.Seq, c, err)
	}
	if ack.ID != "1" || ack.Subject != "orders.created" || ack.Site != "test" || ack.Duplicate {
		t.Errorf("ack = %+v", ack)
	}
	again, err := b.Publish(t.Context(), publication("1"))
	if err != nil || !again.Duplicate || again.Seq != ack.Seq {
		t.Errorf("again = %+v, %v", again, err)
	}
}

// Concurrent callers: every ack names the place where the event stands, and the
// events of one caller stand in the order of its calls.
func TestGroupCommit(t *testing.T) {
	b := wefttest.Node(t)
	const callers, each = 32, 40
	seqs := make([][]uint64, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				ack, err := b.Publish(t.Context(), publication(fmt.Sprintf("%d-%d", c, i)))
				if err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				seqs[c] = append(seqs[c], ack.Seq)
			}
		})
	}
	wg.Wait()
	at := stored(t, b)
	if len(at) != callers*each {
		t.Fatalf("%d events stored, want %d", len(at), callers*each)
	}
	for c := range seqs {
		for i, seq := range seqs[c] {
			if want := fmt.Sprintf("%d-%d", c, i); at[seq] != want {
				t.Errorf("seq %d holds %s, acknowledged as %s", seq, at[seq], want)
			}
			if i > 0 && seq <= seqs[c][i-1] {
				t.Errorf("caller %d: %d after %d", c, seq, seqs[c][i-1])
			}
		}
	}
}

// Callers that publish the same ids at the same time: one of each is stored and
// the others are told where, in batches that are sent ahead as in any other.
func TestRepeatsTogether(t *testing.T) {
	b := wefttest.Node(t)
	const callers, each = 48, 60
	acks := make([][]bus.Ack, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				ack, err := b.Publish(t.Context(), publication(fmt.Sprintf("%d-%d", c/3, i)))
				if err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				acks[c] = append(acks[c], ack)
			}
		})
	}
	wg.Wait()
	at := stored(t, b)
	if len(at) != callers/3*each {
		t.Errorf("%d events stored, want %d", len(at), callers/3*each)
	}
	first := map[string]int{}
	for _, list := range acks {
		for _, ack := range list {
			if at[ack.Seq] != ack.ID {
				t.Errorf("seq %d holds %s, acknowledged as %s", ack.Seq, at[ack.Seq], ack.ID)
			}
			if !ack.Duplicate {
				first[ack.ID]++
			}
		}
	}
	for id, n := range first {
		if n != 1 {
			t.Errorf("%s: %d acknowledgements say it was new", id, n)
		}
	}
}

// stored pages through the stream: event id by sequence.
func stored(t *testing.T, b *bus.Bus) map[uint64]string {
	t.Helper()
	at := map[uint64]string{}
	var after uint64
	for {
		events, next, err := b.Page(t.Context(), bus.PageConfig{Pattern: ">", After: after, Max: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			at[e.Seq] = e.ID
		}
		if next == after || len(events) == 0 {
			return at
		}
		after = next
	}
}

func TestPublishAll(t *testing.T) {
	b := wefttest.Node(t)
	if _, err := b.Publish(t.Context(), publication("old")); err != nil {
		t.Fatal(err)
	}
	var ps []bus.Publication
	for i := range 2500 {
		ps = append(ps, publication(fmt.Sprint(i)))
	}
	ps[700] = publication("old")             // known to the stream
	ps[701] = publication("699")             // twice in one batch
	ps[702].Subject = "orders..created"      // no subject
	ps[703].Event.Data = make([]byte, 2<<20) // oversize
	results := b.PublishAll(t.Context(), ps)
	var last uint64
	for i, r := range results {
		switch i {
		case 700, 701:
			if r.Err != nil || !r.Ack.Duplicate {
				t.Errorf("%d: %+v, want a duplicate", i, r)
			}
		case 702, 703:
			if !errors.Is(r.Err, event.ErrRejected) {
				t.Errorf("%d: %v, want rejected", i, r.Err)
			}
		default:
			if r.Err != nil || r.Ack.Duplicate || r.Ack.Seq != last+1 && i > 0 {
				t.Fatalf("%d: %+v after %d", i, r, last)
			}
			last = r.Ack.Seq
		}
	}
	at := stored(t, b)
	if len(at) != 2500-4+1 {
		t.Errorf("%d events stored", len(at))
	}
	for i, r := range results {
		if r.Err == nil && at[r.Ack.Seq] != r.Ack.ID {
			t.Errorf("%d: seq %d holds %s", i, r.Ack.Seq, at[r.Ack.Seq])
		}
	}
}

func TestPublishContext(t *testing.T) {
	b := wefttest.Node(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Publish(ctx, publication("1")); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, staging := range []string{"memory", "disk", "off"} {
		b.Run(staging, func(b *testing.B) { benchmark(b, staging) })
	}
}
