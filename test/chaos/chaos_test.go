// Package chaos_test runs the chaos suite against real nodes, in the small.
package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/cli"
	"weft.dev/weft/loadtest/chaos"
)

// TestMain makes this binary a node when it is called as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		err := cli.Run(context.Background(), os.Args[1:], cli.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Lookup: os.LookupEnv})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(cli.ExitCode(err))
	}
	os.Exit(m.Run())
}

// Real nodes of two linked sites are killed and cut, and nothing is lost.
func TestRun(t *testing.T) {
	cfg := chaos.Default()
	cfg.Sites, cfg.Nodes, cfg.Edges, cfg.Duration, cfg.Faults, cfg.Rate, cfg.Dir = 1, 1, 1, 25*time.Second, 3, 100, t.TempDir()
	var err error
	if cfg.Binary, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	rep, err := chaos.Run(t.Context(), cfg, &log)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	if err := rep.Failure(); err != nil {
		t.Errorf("%v\n%s", err, log.String())
	}
	if len(rep.Stored) != 4 || len(rep.Live) != 4 || len(rep.Faults) == 0 {
		t.Errorf("%d rows stored, %d consumed, %d faults; want 4, 4 and some", len(rep.Stored), len(rep.Live), len(rep.Faults))
	}
	for _, row := range rep.Stored {
		if row.Accepted < 500 || row.Present < row.Accepted {
			t.Errorf("%s has %d of %d events of %s", row.Site, row.Present, row.Accepted, row.Origin)
		}
	}
	if left, err := filepath.Glob(filepath.Join(cfg.Dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	var text, md strings.Builder
	if err := errors.Join(rep.WriteText(&text), rep.WriteMarkdown(&md)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## Verdict", "lost 0, duplicated 0, out of order 0", "| core1 | edge1 |"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, md.String())
		}
	}
}
