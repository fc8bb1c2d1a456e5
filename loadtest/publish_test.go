package loadtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/loadtest"
)

func short(server string) loadtest.PublishConfig {
	c := loadtest.DefaultPublish()
	c.Server, c.Duration, c.Warmup, c.Connections = server, 300*time.Millisecond, 50*time.Millisecond, 4
	return c
}

// TestPublish runs against a server that checks every request.
func TestPublish(t *testing.T) {
	var taken atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/v1/events/load.publish" || !json.Valid(body) || len(body) != 256 ||
			r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("request %s %s %v %s", r.Method, r.URL.Path, r.Header, body)
		}
		switch n := taken.Add(1); {
		case n%100 == 50:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"type":"unavailable","status":503}`)
		case n%100 == 75:
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(http.StatusAccepted)
			_, _ = io.WriteString(w, `{"id":"x"}`)
		}
	}))
	srv.Config.ErrorLog = nil
	defer srv.Close()
	cfg := short(srv.URL)
	cfg.Token = "secret"
	var progress bytes.Buffer
	r, err := loadtest.Publish(t.Context(), cfg, &progress)
	if err != nil {
		t.Fatal(err)
	}
	if r.Accepted == 0 || r.Accepted > uint64(taken.Load()) || r.Rate <= 0 || r.Latency.Count != r.Accepted || r.Latency.P50 <= 0 {
		t.Errorf("report = %+v with %d requests", r, taken.Load())
	}
	if taken.Load() > 100 && (r.Errors["503 unavailable"] == 0 || r.Errors["closed by server"]+r.Errors["reset"] == 0) {
		t.Errorf("errors = %v, want 503 and closed connections", r.Errors)
	}
	if r.Failed() != nil {
		t.Errorf("Failed = %v", r.Failed())
	}
}

func TestPublishOpenLoopKeepsItsRate(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer srv.Close()
	cfg := short(srv.URL)
	cfg.Rate, cfg.Warmup = 200, 0
	r, err := loadtest.Publish(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Accepted == 0 || r.Accepted > 60 {
		t.Errorf("%d events in 300 ms at 200/s, want at most 60", r.Accepted)
	}
}

func TestPublishCompares(t *testing.T) {
	var hits [2]atomic.Int64
	var servers [2]*httptest.Server
	for i := range servers {
		servers[i] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			hits[i].Add(1)
			w.WriteHeader(http.StatusAccepted)
		}))
		defer servers[i].Close()
	}
	cfg := short(servers[0].URL)
	cfg.Compare, cfg.Rounds = servers[1].URL, 3
	r, err := loadtest.Publish(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Compare; c == nil || len(c.Rounds) != 3 || c.Ratio <= 0 || c.Accepted == 0 || r.Accepted == 0 {
		t.Errorf("comparison = %+v", r.Compare)
	}
	if hits[0].Load() == 0 || hits[1].Load() == 0 {
		t.Errorf("hits = %d, %d", hits[0].Load(), hits[1].Load())
	}
}

func TestPublishStopsWithItsContext(t *testing.T) {
	begun := make(chan struct{}, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // never answers
	}))
	defer srv.Close()
	cfg := short(srv.URL)
	cfg.Duration = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }() // ends with the first request
	r, err := loadtest.Publish(ctx, cfg, nil)
	if err != nil || r.Accepted != 0 {
		t.Errorf("%d accepted, %v", r.Accepted, err)
	}
	if r.Failed() == nil {
		t.Error("a run without an accepted event did not fail")
	}
}

func TestPublishRefusals(t *testing.T) {
	tests := []struct {
		field string
		give  func(c *loadtest.PublishConfig)
	}{
		{"server", func(c *loadtest.PublishConfig) { c.Server = "127.0.0.1:8281" }},
		{"server", func(c *loadtest.PublishConfig) { c.Server = "ftp://x" }},
		{"compare", func(c *loadtest.PublishConfig) { c.Compare = "x" }},
		{"subject", func(c *loadtest.PublishConfig) { c.Subject = "a..b" }},
		{"duration", func(c *loadtest.PublishConfig) { c.Duration = 0 }},
		{"rate", func(c *loadtest.PublishConfig) { c.Rate = -1 }},
		{"size", func(c *loadtest.PublishConfig) { c.Size = 1 }},
		{"connections", func(c *loadtest.PublishConfig) { c.Connections = 0 }},
		{"rounds", func(c *loadtest.PublishConfig) { c.Rounds = 0 }},
		{"token", func(c *loadtest.PublishConfig) { c.Token = "a\r\nX: y" }},
	}
	for _, tt := range tests {
		t.Run(tt.field, func(t *testing.T) {
			cfg := short("http://127.0.0.1:1")
			tt.give(&cfg)
			_, err := loadtest.Publish(t.Context(), cfg, nil)
			if !errors.Is(err, event.ErrRejected) || !strings.Contains(err.Error(), tt.field+": want ") {
				t.Errorf("err = %v, want a rejected %s", err, tt.field)
			}
		})
	}
	_, err := loadtest.Publish(t.Context(), short("http://127.0.0.1:1"), nil)
	if err == nil || !strings.Contains(err.Error(), "connect to http://127.0.0.1:1") {
		t.Errorf("err = %v, want the server named", err)
	}
	if len(loadtest.Scenarios()) != 5 {
		t.Error("a scenario is missing from the list")
	}
}
