package loadtest_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"weft.dev/weft/loadtest"
)

func fanout(server string) loadtest.FanoutConfig {
	c := loadtest.DefaultFanout()
	c.Server, c.Duration, c.Warmup, c.Rate = server, 500*time.Millisecond, 100*time.Millisecond, 200
	c.Sockets, c.Subjects, c.Connections = 20, 4, 2
	return c
}

func TestFanoutThroughANode(t *testing.T) {
	url := node(t, nil)
	for _, batch := range []bool{true, false} {
		cfg := fanout(url)
		cfg.Batch = batch
		var progress bytes.Buffer
		r, err := loadtest.Fanout(t.Context(), cfg, &progress)
		if err != nil || r.Failed() != nil || len(r.Errors) > 0 {
			t.Fatalf("batch %v: %v, %v, errors %v, %+v", batch, err, r.Failed(), r.Errors, r.Delivery)
		}
		// 5 sockets listen to each of the 4 subjects
		if d := r.Delivery; d.Delivered < 5*r.Accepted || d.Latency.Count == 0 || d.Rate <= 0 {
			t.Errorf("delivery = %+v of %d accepted", d, r.Accepted)
		}
		if !strings.Contains(progress.String(), "20 sockets open") {
			t.Errorf("progress = %s", progress.String())
		}
	}
}

// TestFanoutTellsWhatIsWrong runs against a server that loses, repeats, reorders
// and closes.
func TestFanoutTellsWhatIsWrong(t *testing.T) {
	bodies := make(chan []byte, 1000)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/events/{subject}", func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		_, _ = b.ReadFrom(r.Body)
		select {
		case bodies <- b.Bytes():
		default:
		}
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("/v1/ws", func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{Subprotocols: []string{"weft.json.v1"}}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		say := func(s string) { _ = ws.WriteMessage(websocket.TextMessage, []byte(s)) }
		_, _, _ = ws.ReadMessage()
		say(`{"t":"hb"}`)
		say(`{"t":"welcome"}`)
		_, _, _ = ws.ReadMessage()
		say(`{"t":"subbed","id":"load","s":1}`)
		first, second, third := <-bodies, <-bodies, <-bodies
		say(`{"t":"ev","e":{"data":` + string(first) + `}}`)
		say(`{"t":"ev","e":{"data":` + string(third) + `}}`)
		say(`{"t":"evs","b":[["1:1",{"data":` + string(third) + `}],["1:2",{"data":` + string(second) + `}]]}`)
		say(`{"t":"gap","s":1,"why":"retention"}`)
		say(`{"t":"err","code":"internal"}`)
		say(`{"t":"drain"}`)
		say(`no json`)
		_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4008, "slow"), time.Now().Add(time.Second))
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	cfg := fanout(srv.URL)
	cfg.Sockets, cfg.Subjects, cfg.Grace = 1, 1, 50*time.Millisecond
	r, err := loadtest.Fanout(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := r.Delivery
	if d.Duplicates != 1 || d.Disordered != 1 || d.Delivered != 3 || d.Lost != d.Expected-3 {
		t.Errorf("delivery = %+v", d)
	}
	for _, kind := range []string{"socket: gap retention", "socket: internal", "socket: drained", "socket: frame is no JSON", "socket: closed with 4008"} {
		if r.Errors[kind] != 1 {
			t.Errorf("errors = %v, want one %q", r.Errors, kind)
		}
	}
	if r.Failed() == nil {
		t.Error("a run with losses did not fail")
	}
}

func TestFanoutRefusals(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	_, err := loadtest.Fanout(t.Context(), fanout(srv.URL), nil)
	if err == nil || !strings.Contains(err.Error(), "open socket") || !strings.Contains(err.Error(), "404") {
		t.Errorf("err = %v, want the socket and status named", err)
	}
	cfg := fanout(srv.URL)
	cfg.Sockets, cfg.Subjects, cfg.Grace = 2, 3, -1
	_, err = loadtest.Fanout(t.Context(), cfg, nil)
	if err == nil || !strings.Contains(err.Error(), "subjects: want") || !strings.Contains(err.Error(), "grace: want") {
		t.Errorf("err = %v, want both fields named", err)
	}
}
