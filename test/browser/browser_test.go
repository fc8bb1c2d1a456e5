// Package browser_test opens the pages of a running demo in a real browser. It
// makes no compatibility promise.
package browser_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/demo"
)

// pages runs the demo and returns the addresses of its table by their names.
func pages(t *testing.T) map[string]string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() { // ends with the demo
		err := demo.Run(ctx, demo.Config{Rate: 10, AnyPort: true, Out: in, Log: t.Output()})
		_ = in.CloseWithError(io.EOF)
		done <- err
	}()
	found := make(chan map[string]string, 1)
	go func() { // ends with the pipe
		urls := map[string]string{}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			name, rest, ok := strings.Cut(strings.TrimSpace(lines.Text()), "  ")
			if fields := strings.Fields(rest); ok && len(fields) > 0 {
				urls[name] = fields[0]
			}
			if strings.HasPrefix(lines.Text(), "Stop with") {
				found <- urls
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("demo: %v", err)
		}
	})
	select {
	case urls := <-found:
		return urls
	case <-time.After(30 * time.Second):
		t.Fatal("the demo has not printed its table")
	}
	return nil
}

// tools finds Chromium and the console's node modules. Without them the test is
// skipped, but fails in CI.
func tools(t *testing.T) (chromium, web string) {
	t.Helper()
	missing := t.Skipf
	if os.Getenv("CI") != "" {
		missing = t.Fatalf
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		missing("no chromium: %v", err)
	}
	web, err = filepath.Abs("../../ui/web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(web, "node_modules", "playwright-core")); err != nil {
		missing("no node modules: run npm ci in ui/web: %v", err)
	}
	return chromium, web
}

func TestPagesInChromium(t *testing.T) {
	chromium, web := tools(t)
	urls := pages(t)
	journey := completed(t, urls["Console fra"])
	tests := []struct {
		name string
		args []string
	}{
		{"console", []string{"test/browser.mjs", strings.TrimSuffix(urls["Console fra"], "/"), journey}},
		{"order board", []string{"test/board.mjs", urls["Order board"]}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "node", tt.args...)
			cmd.Dir = web
			cmd.Env = append(os.Environ(), "CHROMIUM="+chromium)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", strings.Join(tt.args, " "), err, out)
			}
		})
	}
}

// completed waits for an order that went all the way and returns its trace id.
func completed(t *testing.T, console string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	url := strings.TrimSuffix(console, "/") + "/v1/events?subject=orders.completed&start=last:1"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), `"traceparent":"00-`); ok {
			return rest[:32]
		}
	}
	t.Fatalf("no order was completed: %v", lines.Err())
	return ""
}
