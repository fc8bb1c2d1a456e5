package dlq_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/dlq"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
)

func letter(owner string, n int) dlq.Letter {
	return dlq.Letter{
		Owner: owner, Subject: "orders.created", Origin: "fra", Reason: "rejected", Error: "line one\nline two\x00", Status: 422, Attempts: 3,
		Stream: "EVENTS", Position: strconv.Itoa(n), FirstFailed: time.Unix(1700000000, 5).UTC(),
		Event: event.Event{
			ID: "e" + strconv.Itoa(n), Source: "/shop", Type: "größe", Time: "2026-01-02T03:04:05Z", DataContentType: "application/json", Data: []byte(`{"n":1}`),
			Extensions: map[string]string{"correlationid": "c1"}, Headers: map[string][]string{"X-A": {"1", "2"}},
		},
	}
}

func TestKeepsEverything(t *testing.T) {
	b := wefttest.Node(t)
	s := dlq.New(b, 1, obs.Discard())
	for range 2 { // given up twice, kept once
		if err := s.Put(t.Context(), letter("to-kafka", 7)); err != nil {
			t.Fatal(err)
		}
	}
	entries, next, err := s.List(t.Context(), dlq.Query{})
	if err != nil || len(entries) != 1 || next != 0 {
		t.Fatalf("list = %+v, %d, %v", entries, next, err)
	}
	e, err := s.Show(t.Context(), entries[0].Seq)
	if err != nil {
		t.Fatal(err)
	}
	want := letter("to-kafka", 7)
	if e.Owner != "to-kafka" || e.Reason != "rejected" || e.Error != "line one line two" || e.Status != 422 || e.Attempts != 3 ||
		e.Stream != "EVENTS" || e.Position != "7" || !e.FirstFailed.Equal(want.FirstFailed) || e.Subject != "orders.created" || e.Origin != "fra" || e.CorrelationID != "c1" {
		t.Errorf("entry = %+v", e)
	}
	if e.Event.Type != "größe" || string(e.Event.Data) != `{"n":1}` || len(e.Event.Headers["X-A"]) != 2 || len(e.Event.Headers) != 1 {
		t.Errorf("event = %+v", e.Event)
	}
	if _, err := s.Show(t.Context(), 99); !errors.Is(err, dlq.ErrNotFound) {
		t.Errorf("show of nothing: %v", err)
	}
}

func TestTooLargeForAMessageIsCutNotLost(t *testing.T) {
	b := wefttest.Node(t)
	s := dlq.New(b, 1, obs.Discard())
	l := letter("big", 1)
	l.Event.Data = make([]byte, b.Conn().MaxPayload()+1000)
	if err := s.Put(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	entries, _, err := s.List(t.Context(), dlq.Query{Owner: "big"})
	if err != nil || len(entries) != 1 || entries[0].Truncated != len(l.Event.Data) || entries[0].Size < len(l.Event.Data)/2 {
		t.Fatalf("entries = %+v, %v", entries, err)
	}
	out, err := s.Replay(t.Context(), dlq.Replay{Owner: "big"})
	if err != nil || out[0].Done || !strings.Contains(out[0].Error, "read it again at EVENTS 1") {
		t.Errorf("replay = %+v, %v", out, err)
	}
}

func TestListByOwnerInPages(t *testing.T) {
	b := wefttest.Node(t)
	s := dlq.New(b, 1, obs.Discard())
	for i := range 10 {
		owner := "to-kafka"
		if i%2 == 1 {
			owner = "shipping.orders"
		}
		if err := s.Put(t.Context(), letter(owner, i)); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	q := dlq.Query{Owner: "shipping.orders", Max: 2}
	for pages := 0; pages < 5; pages++ {
		entries, next, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			got = append(got, e.ID)
		}
		if q.After = next; next == 0 {
			break
		}
	}
	if strings.Join(got, " ") != "e1 e3 e5 e7 e9" {
		t.Errorf("entries = %v", got)
	}
	if all, _, err := s.List(t.Context(), dlq.Query{Owner: "shipping.*"}); err != nil || len(all) != 5 {
		t.Errorf("by wildcard %d, %v", len(all), err)
	}
	if _, _, err := s.List(t.Context(), dlq.Query{Owner: "a b"}); !errors.Is(err, event.ErrRejected) {
		t.Errorf("a bad owner: %v", err)
	}
}

func TestReplay(t *testing.T) {
	b := wefttest.Node(t)
	s := dlq.New(b, 1, obs.Discard())
	first := letter("to-kafka", 1)
	// The event was published before, a moment ago: its replay is no duplicate.
	if _, err := b.Publish(t.Context(), bus.Publication{Subject: "orders.created", Event: first.Event}); err != nil {
		t.Fatal(err)
	}
	none := letter("to-kafka", 2)
	none.Subject = ""
	for _, l := range []dlq.Letter{first, none} {
		if err := s.Put(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	dry, err := s.Replay(t.Context(), dlq.Replay{Owner: "to-kafka", DryRun: true})
	if err != nil || len(dry) != 2 || dry[0].Done || dry[0].Error != "" || dry[0].Subject != "orders.created" || dry[1].Error == "" {
		t.Fatalf("dry run = %+v, %v", dry, err)
	}
	out, err := s.Replay(t.Context(), dlq.Replay{Owner: "to-kafka"})
	if err != nil || !out[0].Done || out[1].Done {
		t.Fatalf("replay = %+v, %v", out, err)
	}
	out, err = s.Replay(t.Context(), dlq.Replay{Seqs: []uint64{out[1].Seq}, Subject: "orders.fixed"})
	if err != nil || !out[0].Done {
		t.Fatalf("replay to another subject = %+v, %v", out, err)
	}
	if left, _, err := s.List(t.Context(), dlq.Query{}); err != nil || len(left) != 0 {
		t.Errorf("left = %+v, %v", left, err)
	}
	events, _, err := b.Page(t.Context(), bus.PageConfig{Pattern: "orders.>", Max: 10})
	if err != nil || len(events) != 3 || events[1].ID != "e1" || events[2].Path != "orders.fixed" {
		t.Errorf("events = %+v, %v", events, err)
	}
}

func TestHandler(t *testing.T) {
	b := wefttest.Node(t)
	s := dlq.New(b, 1, obs.Discard())
	for i := range 3 {
		if err := s.Put(t.Context(), letter("to-kafka", i)); err != nil {
			t.Fatal(err)
		}
	}
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	call := func(method, path, body string) (int, map[string]any) {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]any{}
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &out); err != nil {
				t.Fatalf("%s %s: %s", method, path, raw)
			}
		}
		return res.StatusCode, out
	}
	if code, out := call("GET", "/api/dlq?owner=to-kafka&max=2", ""); code != 200 || len(out["entries"].([]any)) != 2 || out["next"] != 2.0 {
		t.Errorf("list = %d %v", code, out)
	}
	if code, out := call("GET", "/api/dlq/1", ""); code != 200 || out["event"].(map[string]any)["id"] != "e0" || out["reason"] != "rejected" {
		t.Errorf("show = %d %v", code, out)
	}
	if code, out := call("POST", "/api/dlq/replay", `{"seqs":[1]}`); code != 200 || out["results"].([]any)[0].(map[string]any)["done"] != true {
		t.Errorf("replay = %d %v", code, out)
	}
	if code, _ := call("DELETE", "/api/dlq/2", ""); code != 204 {
		t.Errorf("delete = %d", code)
	}
	tests := []struct {
		method, path, body string
		code               int
		field              any
	}{
		{"GET", "/api/dlq/1", "", 404, nil},
		{"GET", "/api/dlq/x", "", 400, "seq"},
		{"DELETE", "/api/dlq/2", "", 404, nil},
		{"GET", "/api/dlq?max=0", "", 400, "max"},
		{"GET", "/api/dlq?after=-1", "", 400, "after"},
		{"POST", "/api/dlq/replay", `{}`, 400, "seqs"},
		{"POST", "/api/dlq/replay", `{"seqs":[3],"subject":"a b"}`, 400, "subject"},
		{"POST", "/api/dlq/replay", `{"sqes":[3]}`, 400, "body"},
		{"POST", "/api/dlq/replay", `nope`, 400, nil},
	}
	for _, tt := range tests {
		if code, out := call(tt.method, tt.path, tt.body); code != tt.code || (tt.field != nil && out["field"] != tt.field) {
			t.Errorf("%s %s %s = %d %v, want %d %v", tt.method, tt.path, tt.body, code, out, tt.code, tt.field)
		}
	}
}

// A dead letter that the stream never takes would stop its bridge for good.
func TestTooLargeHeadersAreLeftOutNotTriedForEver(t *testing.T) {
	b := wefttest.Node(t)
	s := dlq.New(b, 1, obs.Discard())
	huge := letter("huge", 1)
	huge.Event.Headers = map[string][]string{"X-Small": {"kept"}, "X-Huge": {strings.Repeat("a", 100<<10)}}
	huge.Event.Data = make([]byte, b.Conn().MaxPayload())
	many := letter("many", 2)
	for i := range 2000 {
		many.Event.Headers["X-Many-"+strconv.Itoa(i)] = []string{strings.Repeat("b", 50)}
	}
	id := letter("id", 3)
	id.Event.ID = strings.Repeat("ü", 40<<10)
	for _, l := range []dlq.Letter{huge, many, id} {
		if err := s.Put(t.Context(), l); err != nil {
			t.Fatalf("%s: %v", l.Owner, err)
		}
	}
	entries, _, err := s.List(t.Context(), dlq.Query{})
	if err != nil || len(entries) != 3 {
		t.Fatalf("entries = %+v, %v", entries, err)
	}
	if e := entries[0]; e.Dropped != "X-Huge" || e.Event.Headers["X-Small"][0] != "kept" || e.ID != "e1" || e.Truncated == 0 {
		t.Errorf("entry = %+v", e)
	}
	if e := entries[2]; e.Dropped != "ce-id" || e.Type != "größe" {
		t.Errorf("entry = %+v", e)
	}
	out, err := s.Replay(t.Context(), dlq.Replay{Seqs: []uint64{entries[2].Seq}})
	if err != nil || out[0].Done || !strings.Contains(out[0].Error, "ce-id were too large to keep: read it again at EVENTS 3") {
		t.Errorf("replay = %+v, %v", out, err)
	}
}

// What an event brings along does not say where it is replayed to.
func TestHeadersOfTheEventDoNotSpeakForTheLetter(t *testing.T) {
	b := wefttest.Node(t)
	s := dlq.New(b, 1, obs.Discard())
	l := letter("in", 1)
	l.Subject = "" // from outside
	l.Event.Headers = map[string][]string{"Weft-Dlq-Subject": {"payments.refund"}, "weft-dlq-truncated": {"7"}}
	if err := s.Put(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	e, err := s.Show(t.Context(), 1)
	if err != nil || e.Subject != "" || len(e.Event.Headers) != 0 {
		t.Errorf("entry = %+v, %v", e, err)
	}
}

func TestStreamMadeAgain(t *testing.T) {
	b := wefttest.Node(t)
	s := dlq.New(b, 1, obs.Discard())
	if err := s.Put(t.Context(), letter("a", 1)); err != nil {
		t.Fatal(err)
	}
	if err := b.JetStream().DeleteStream(t.Context(), dlq.Stream); err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 10*time.Second, "stored again", func() bool { return s.Put(t.Context(), letter("a", 2)) == nil })
}
