package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"weft.dev/weft/internal/app"
)

// result is what one command line did.
type result struct {
	out, err string
	failure  error
}

func command(ctx context.Context, stdin string, args ...string) result {
	var out, errs bytes.Buffer
	err := Run(ctx, args, Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
		Lookup: func(string) (string, bool) { return "", false },
	})
	return result{out.String(), errs.String(), err}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.HasParent() && (cmd.Example == "" || cmd.Short == "") {
			t.Errorf("%s: want a summary and an example", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&cli{Env: Env{Lookup: func(string) (string, bool) { return "", false }}}))
}

func TestUsageErrorsExitTwo(t *testing.T) {
	tests := []struct {
		name string
		give []string
		want string
	}{
		{"unknown command", []string{"fly"}, `unknown command "fly"`},
		{"unknown subcommand", []string{"dlq", "fly"}, `unknown command "fly"`},
		{"unknown flag", []string{"run", "--fly"}, "--fly"},
		{"missing argument", []string{"pub"}, "accepts 1 arg"},
		{"bad subject", []string{"pub", "orders..created"}, "subject: want"},
		{"bad pattern", []string{"sub", "orders.>.x"}, "subject: want"},
		{"bad output", []string{"version", "-o", "xml"}, "want text or json"},
		{"bad header", []string{"pub", "a", "-H", "x"}, "want NAME=VALUE"},
		{"bad server", []string{"mesh", "--server", "nowhere"}, "want a URL"},
		{"negative start", []string{"sub", "a", "--last", "-3"}, "--last: want 0 or more"},
		{"negative time", []string{"sub", "a", "--since", "-3s"}, "--since: want 0 or more"},
		{"demo without orders", []string{"demo", "--rate", "0"}, "--rate 0: want more than 0"},
		{"demo in the past", []string{"demo", "--for", "-5s"}, "--for -5s: want 0 or more"},
		{"two starts", []string{"sub", "a", "--all", "--last", "3"}, "none of the others can be"},
		{"no dead letter", []string{"dlq", "show", "x"}, "number of a dead letter"},
		{"nothing to replay", []string{"dlq", "replay"}, "--owner"},
		{"bad kind", []string{"check", "-c", "x", "--kind", "y"}, "want node or sidecar"},
		{"bad load", []string{"load", "publish", "--connections", "0"}, "connections"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := command(t.Context(), "", tt.give...)
			if ExitCode(r.failure) != 2 || !strings.Contains(r.failure.Error(), tt.want) {
				t.Errorf("exit %d: %v, want exit 2 with %q", ExitCode(r.failure), r.failure, tt.want)
			}
		})
	}
}

func TestFailuresExitOne(t *testing.T) {
	r := command(t.Context(), "", "mesh", "--server", "http://127.0.0.1:1")
	if ExitCode(r.failure) != 1 || !strings.Contains(r.failure.Error(), "weft run") {
		t.Errorf("exit %d: %v, want exit 1 that says how to start a node", ExitCode(r.failure), r.failure)
	}
}

const mistakes = `site: fra
sight: typo
gateway: {listen: nowhere, heartbeat: soon}
data: ${NOT_SET}
telemetry:
  log: {level: loud}
mesh: {links: {listen: "127.0.0.1:0", sites: [{name: fra, secret: sixteen-characters}]}}
site: iad
`

func TestCheckListsEveryMistakeWithItsLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(file, []byte(mistakes), 0o600); err != nil {
		t.Fatal(err)
	}
	r := command(t.Context(), "", "check", "-c", file)
	if ExitCode(r.failure) != 1 {
		t.Fatalf("exit %d: %v", ExitCode(r.failure), r.failure)
	}
	for _, want := range []string{":2: sight", ":3: gateway.heartbeat", ":4: data", ":7: mesh.links.sites[0].name: want another site", ":8: site"} {
		if !strings.Contains(r.failure.Error(), file+want) {
			t.Errorf("mistakes:\n%v\nwant one at %q", r.failure, want)
		}
	}
	j := command(t.Context(), "", "check", "-c", file, "-o", "json")
	var got struct {
		OK       bool
		Mistakes []struct {
			Line    int
			Message string
		}
	}
	if err := json.Unmarshal([]byte(j.out), &got); err != nil || got.OK || len(got.Mistakes) < 5 {
		t.Errorf("json = %s (%v), want at least five mistakes", j.out, err)
	}
}

// node runs a node on free ports and returns the URL for --server.
func node(t *testing.T) string {
	t.Helper()
	return nodeOf(t, app.DefaultConfig())
}

// nodeOf runs a node of a configuration until the test ends and returns its URL.
func nodeOf(t *testing.T, cfg app.Config) string {
	t.Helper()
	cfg.Node, cfg.Data = "test-1", t.TempDir()
	cfg.Mesh.Client.Listen, cfg.Gateway.Listen, cfg.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Telemetry.Traces.Sample = 0 // weft pub asks for its trace itself
	n, err := app.New(cfg, app.Deps{Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-n.Ready():
	case err := <-done:
		done <- err
		t.Fatal(err)
	case <-time.After(20 * time.Second):
		t.Fatal("node is not ready")
	}
	return "http://" + n.Addr("admin")
}

func TestClientsAgainstANode(t *testing.T) {
	server := node(t)
	at := func(args ...string) result {
		t.Helper()
		r := command(t.Context(), `{"orderId":"o-2"}`, append(args, "--server", server)...)
		if r.failure != nil {
			t.Fatalf("weft %s: %v", strings.Join(args, " "), r.failure)
		}
		return r
	}
	var ack answer
	if err := json.Unmarshal([]byte(at("pub", "orders.created", "-d", `{"orderId":"o-1"}`, "-H", "ce-correlationid=o-1", "-o", "json").out), &ack); err != nil || ack.Seq != 1 {
		t.Fatalf("ack = %+v, %v", ack, err)
	}
	if out := at("pub", "orders.paid", "-f", "-", "-H", "ce-id=again", "-H", "ce-source=/t").out; !strings.Contains(out, "seq 2") {
		t.Errorf("pub = %q", out)
	}
	if out := at("pub", "orders.paid", "-f", "-", "-H", "ce-id=again", "-H", "ce-source=/t").out; !strings.Contains(out, "duplicate") {
		t.Errorf("pub again = %q, want a duplicate", out)
	}
	lines := strings.Split(strings.TrimSpace(at("sub", "orders.*", "--all", "--count", "2", "-o", "json").out), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"o-1"`) || !strings.Contains(lines[1], `"again"`) {
		t.Errorf("sub --all = %q", lines)
	}
	if out := at("sub", "orders.*", "--from", ack.Cursor, "--idle-exit", "2s").out; strings.Contains(out, "o-1") || !strings.Contains(out, "again") {
		t.Errorf("sub --from = %q, want only the second event", out)
	}
	if out := at("mesh").out; !strings.Contains(out, "site    local") {
		t.Errorf("mesh = %q", out)
	}
	if out := at("stream").out; !strings.Contains(out, "EVENTS") {
		t.Errorf("stream = %q", out)
	}
	for _, args := range [][]string{{"dlq", "ls"}, {"bridge", "ls"}, {"bridge", "check"}, {"webhook", "ls"}, {"version"}} {
		at(args...)
	}
	traceEventually(t, server, "o-1")
	if r := command(t.Context(), "", "trace", "unknown-id", "--server", server); ExitCode(r.failure) != 1 {
		t.Errorf("trace of an unknown id = %v, want a failure", r.failure)
	}
}

// traceEventually waits for the spans, which are sent in batches.
func traceEventually(t *testing.T, server, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		r := command(ctx, "", "trace", id, "--server", server)
		if r.failure == nil && strings.Contains(r.out, "publish orders.created") && strings.Contains(r.out, "store EVENTS") {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("trace = %q, %v", r.out, r.failure)
		}
	}
}

func TestPublishRefusalNamesTheField(t *testing.T) {
	server := node(t)
	r := command(t.Context(), "", "pub", "orders.created", "-d", "x", "-H", "ce-id=1", "-H", "ce-time=yesterday", "--server", server)
	if ExitCode(r.failure) != 1 || !strings.Contains(r.failure.Error(), "time") {
		t.Errorf("failure = %v, want one that names the attribute time", r.failure)
	}
}

func TestServerThatGoesAwayIsToldAtOnce(t *testing.T) {
	r := command(t.Context(), "", "sub", "a", "--server", "http://127.0.0.1:1")
	if r.failure == nil || errors.Is(r.failure, io.EOF) {
		t.Errorf("failure = %v, want that no node answers", r.failure)
	}
}

func TestExampleFilesAreValid(t *testing.T) {
	for file, kind := range map[string]string{"weft.yaml": "node", "sidecar.yaml": "sidecar"} {
		var errs bytes.Buffer
		err := Run(t.Context(), []string{"check", "-c", filepath.Join("..", "..", "examples", file), "--kind", kind}, Env{
			Stdout: io.Discard, Stderr: &errs, Lookup: func(string) (string, bool) { return "a-secret-of-some-length", true },
		})
		if err != nil {
			t.Errorf("examples/%s: %v", file, err)
		}
	}
}
