package httpd_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/internal/obs"
)

// TestServerDrains: a request in flight gets its answer, an endless one hears
// that the server stops, and new connections are refused.
func TestServerDrains(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in := make(chan struct{}, 2)
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		in <- struct{}{}
		<-httpd.Stopping(r.Context())
		httpd.WriteJSON(w, 200, map[string]bool{"canceled": r.Context().Err() != nil})
	})
	s := httpd.New("test", l, mux, obs.Discard().Log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	answers := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + s.Addr().String() + "/slow")
		if err != nil {
			answers <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answers <- string(body)
	}()
	<-in
	cancel()
	if got := <-answers; got != `{"canceled":false}`+"\n" {
		t.Errorf("answer %s", got)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := http.Get("http://" + s.Addr().String() + "/slow"); err == nil {
		t.Error("it still serves")
	}
	if c := httpd.Stopping(t.Context()); c != nil {
		t.Error("a channel outside a server")
	}
}

func TestServerFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	err = httpd.New("test", l, nil, obs.Discard().Log).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "serve test on 127.0.0.1") {
		t.Errorf("error %v", err)
	}
}

func TestReadJSON(t *testing.T) {
	tests := []struct {
		name, give string
		status     int
		field      string
	}{
		{"good", `{"name":"x"}`, 0, ""},
		{"no JSON", `{`, 400, "body"},
		{"wrong type", `{"name":7}`, 400, "name"},
		{"unknown member", `{"nome":"x"}`, 400, "body"},
		{"two values", `{"name":"x"}{}`, 400, "body"},
		{"too large", `{"name":"` + strings.Repeat("x", 200) + `"}`, 413, "body"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v struct {
				Name string `json:"name"`
			}
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(tt.give))
			err := httpd.ReadJSON(httptest.NewRecorder(), r, 100, &v)
			if tt.status == 0 {
				if err != nil || v.Name != "x" {
					t.Errorf("%+v, %v", v, err)
				}
				return
			}
			if p := httpd.ProblemOf(err); p.Status != tt.status || p.Field != tt.field {
				t.Errorf("problem %+v for %v", p, err)
			}
		})
	}
}

func TestProblemOf(t *testing.T) {
	tests := []struct {
		err    error
		status int
	}{
		{errors.New("disk"), 500},
		{context.DeadlineExceeded, 503},
		{context.Canceled, 503},
		{httpd.Problem{Status: 418}, 418},
	}
	for _, tt := range tests {
		if p := httpd.ProblemOf(tt.err); p.Status != tt.status {
			t.Errorf("%v is %d, want %d", tt.err, p.Status, tt.status)
		}
	}
	w := httptest.NewRecorder()
	httpd.WriteProblem(w, httpd.Problem{Detail: `say "hi"`, Limit: 7})
	if got, want := w.Body.String(), `{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"say \"hi\"","limit":7}`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
