// Package idle_test measures the memory of real nodes that have nothing to do.
package idle_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/loadtest/idle"
)

// most is the promise of 40 MB, in kB of 1024 bytes.
const most = 39_000

func TestIdle(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("resident memory is read from /proc")
	}
	if testing.Short() {
		t.Skip("builds and runs real nodes")
	}
	cfg := idle.Default()
	cfg.Binary = build(t)
	cfg.Dir, cfg.After, cfg.Most = t.TempDir(), []time.Duration{10 * time.Second}, most
	report, err := idle.Run(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := report.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", &text)
	if err := report.Failure(); err != nil {
		t.Error(err)
	}
	if len(report.Looks) != 4 {
		t.Errorf("%d looks, want 4: one at each node", len(report.Looks))
	}
	for _, m := range report.Looks {
		if m.Anon < 1000 || m.File < 1000 || m.RSS < m.Anon+m.File {
			t.Errorf("memory = %+v, want what a process has", m)
		}
	}
	if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	report.Most = 1000
	if err := report.Failure(); err == nil || strings.Count(err.Error(), "want at most 1000") != 4 {
		t.Errorf("nodes over the limit: %v", err)
	}
}

// A node that does not come up is told with its log.
func TestIdleFails(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("resident memory is read from /proc")
	}
	cfg := idle.Default()
	cfg.Dir, cfg.Binary = t.TempDir(), filepath.Join(t.TempDir(), "weft")
	if err := os.WriteFile(cfg.Binary, []byte("#!/bin/sh\necho no port is free\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := idle.Run(t.Context(), cfg, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "site of 1: node idle-1 ended: exit status 3\nno port is free") {
		t.Errorf("err = %v", err)
	}
}

func TestIdleValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*idle.Config)
		want   string // empty: accepted
	}{
		{"default", func(*idle.Config) {}, ""},
		{"two nodes", func(c *idle.Config) { c.Sizes = []int{2} }, "sizes"},
		{"no site", func(c *idle.Config) { c.Sizes = nil }, "sizes"},
		{"no look", func(c *idle.Config) { c.After = nil }, "after"},
		{"looks back", func(c *idle.Config) { c.After = []time.Duration{2, 1} }, "after"},
		{"load", func(c *idle.Config) { c.Load = -1 }, "load"},
		{"rate", func(c *idle.Config) { c.Rate = 0 }, "rate"},
		{"most", func(c *idle.Config) { c.Most = -1 }, "most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := idle.Default()
			tt.change(&cfg)
			err := cfg.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, event.ErrRejected) || !strings.Contains(err.Error(), tt.want+": want ")) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
		})
	}
}

func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weft")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "weft.dev/weft/cmd/weft")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}
