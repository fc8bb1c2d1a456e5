package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("app: {id: shop, prot: 1}\nlisteners: {api: nowhere}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		give   []string
		stdout string
		err    string
		misuse bool
	}{
		{name: "help", give: []string{"-h"}, stdout: "Example:\n  weft-sidecar -c sidecar.yaml"},
		{name: "unknown flag", give: []string{"-x"}, err: "not defined: -x", misuse: true},
		{name: "argument", give: []string{"sidecar.yaml"}, err: `unexpected argument "sidecar.yaml"`, misuse: true},
		{name: "no file", give: []string{"-c", "/does/not/exist"}, err: "read configuration: open /does/not/exist"},
		{name: "mistakes", give: []string{"-c", bad}, err: bad + ":1: app.prot: unknown key, did you mean port?\n" + bad + ":2: listeners.api: want host:port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			err := run(t.Context(), tt.give, &stdout, &stderr)
			var misuse usageError
			if errors.As(err, &misuse) != tt.misuse || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("err = %v, want %s", err, tt.err)
			}
			if !strings.Contains(stdout.String(), tt.stdout) {
				t.Errorf("stdout = %s", stdout.String())
			}
		})
	}
}

func TestRunsUntilStopped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sidecar.yaml")
	text := "listeners: {api: 127.0.0.1:0, metrics: 127.0.0.1:0}\nupstream: {urls: [nats://127.0.0.1:1]}\ntelemetry: {log: {level: error}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out strings.Builder
	if err := run(ctx, []string{"-c", file}, &out, &out); err != nil {
		t.Errorf("run: %v", err)
	}
}

// What makes the binary large must not come in by the way.
func TestStaysSlim(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		for _, heavy := range []string{"github.com/nats-io/nats-server", "google.golang.org/grpc", "github.com/aws/", "github.com/twmb/", "weft.dev/weft/mesh", "weft.dev/weft/gateway", "weft.dev/weft/bridge"} {
			if strings.HasPrefix(line, heavy) {
				t.Errorf("links %s", strings.TrimSpace(line))
			}
		}
	}
}
