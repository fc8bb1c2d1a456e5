package app_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/app"
)

// config is a node on free ports.
func config(t *testing.T) app.Config {
	cfg := app.DefaultConfig()
	cfg.Node, cfg.Data = "test-1", t.TempDir()
	cfg.Mesh.Client.Listen, cfg.Gateway.Listen, cfg.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	return cfg
}

// running is a node that serves.
type running struct {
	*app.Node
	stop func() error
}

func run(t *testing.T, cfg app.Config) running {
	t.Helper()
	n, err := app.New(cfg, app.Deps{Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	r := running{Node: n, stop: func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}}
	t.Cleanup(func() { _ = r.stop() })
	select {
	case <-n.Ready():
	case err := <-done:
		done <- err
		t.Fatal(err)
	case <-time.After(20 * time.Second):
		t.Fatal("node is not ready")
	}
	return r
}

// fails runs a node that must not come up and returns why.
func fails(t *testing.T, cfg app.Config) string {
	t.Helper()
	n, err := app.New(cfg, app.Deps{Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err = n.Run(ctx)
		if ctx.Err() != nil {
			t.Fatal("the node runs, want an error")
		}
	}
	if err == nil {
		t.Fatal("no error")
	}
	return err.Error()
}

func request(t *testing.T, method, url string, h http.Header) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range h {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestAdminListenerServesEverything(t *testing.T) {
	n := run(t, config(t))
	base := "http://" + n.Addr("admin")
	for path, want := range map[string]string{
		"/":                     "<title>",
		"/journeys":             "<title>",
		"/healthz":              "ok",
		"/readyz":               "ready",
		"/metrics":              "weft_stream_messages",
		"/openapi.json":         `"openapi"`,
		"/api/info":             `"site":"local"`,
		"/api/mesh":             `"natsVersion"`,
		"/api/streams":          `"EVENTS"`,
		"/api/journeys":         `"journeys"`,
		"/api/bridges":          `"bridges"`,
		"/api/dlq":              `"entries"`,
		"/api/webhooks":         `"webhooks"`,
		"/api/sidecars":         `"sidecars"`,
		"/v1/webhooks":          `"webhooks"`,
		"/api/journeys/unknown": `"status":404`,
		"/api/nothing":          `"status":404`,
	} {
		if _, body := request(t, http.MethodGet, base+path, nil); !strings.Contains(body, want) {
			t.Errorf("GET %s = %.200q, want %q in it", path, body, want)
		}
	}
	status, _ := request(t, http.MethodPost, base+"/api/dlq/replay", http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}})
	if status != http.StatusForbidden {
		t.Errorf("a foreign page's POST to the admin API = %d, want 403", status)
	}
	var info struct{ Listeners map[string]string }
	_, body := request(t, http.MethodGet, base+"/api/info", nil)
	if err := json.Unmarshal([]byte(body), &info); err != nil || info.Listeners["gateway"] != "http://"+n.Addr("gateway") {
		t.Errorf("info = %s, want the chosen ports", body)
	}
	if err := n.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestStartFailuresNameThePlace(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	foreign := config(t)
	if err := run(t, foreign).stop(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*app.Config)
		want   []string
	}{
		{"gateway port in use", func(c *app.Config) { c.Gateway.Listen = taken.Addr().String() }, []string{"gateway.listen", taken.Addr().String()}},
		{"admin port in use", func(c *app.Config) { c.Admin.Listen = taken.Addr().String() }, []string{"admin.listen"}},
		{"client port in use", func(c *app.Config) { c.Mesh.Client.Listen = taken.Addr().String() }, []string{"mesh.client.listen"}},
		{"data of another site", func(c *app.Config) { c.Data, c.Site = foreign.Data, "other" }, []string{"site", "local"}},
		{"data is a file", func(c *app.Config) {
			c.Data = filepath.Join(c.Data, "file")
			if err := os.WriteFile(c.Data, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"data"}},
		{"site with a leading dash", func(c *app.Config) { c.Site = "-a" }, []string{"site: want", "letters"}},
		{"site that is no token", func(c *app.Config) { c.Site = "a.b" }, []string{"site", "letters"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(t)
			tt.change(&cfg)
			got := fails(t, cfg)
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("error = %q, want %q in it", got, want)
				}
			}
		})
	}
}

// A node may be told to stop at any moment of its start: that is no failure, and
// it always ends.
func TestStopDuringStart(t *testing.T) {
	cfg := config(t)
	for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond} {
		n, err := app.New(cfg, app.Deps{Log: slog.New(slog.DiscardHandler), Version: "test"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(after, cancel)
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("stopped after %s: %v", after, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("stopped after %s: still runs", after)
		}
		cancel()
	}
}
