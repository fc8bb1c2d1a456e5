package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/loadtest/chaos"
)

// A volume is full while it is to be, whatever else is deleted there, and has
// its space again afterwards.
func TestVolume(t *testing.T) {
	dir := t.TempDir()
	if err := chaos.Mountable(dir); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	v, unmount, err := chaos.NewVolume(dir, 256<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unmount(); err != nil {
			t.Error(err)
		}
	}()
	write := func(name string) error {
		return os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), 0o600)
	}
	n := 0
	full := func() bool { // in a new file: writing one again frees its space first
		n++
		return errors.Is(write(fmt.Sprint("more", n)), syscall.ENOSPC)
	}
	if err := write("kept"); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	filled := make(chan error, 1)
	go func() { filled <- v.Fill(ctx) }() // ends with end
	wefttest.Eventually(t, 5*time.Second, "no space left", full)
	if err := os.Remove(filepath.Join(dir, "kept")); err != nil {
		t.Fatal(err)
	}
	wefttest.Eventually(t, 5*time.Second, "no space left after a file was deleted", full)
	if n > 200 {
		t.Errorf("%d MB were taken: the test has filled it itself", n)
	}
	end()
	if err := <-filled; err != nil {
		t.Fatal(err)
	}
	for i := range n { // what was written has filled it again, perhaps
		_ = os.Remove(filepath.Join(dir, fmt.Sprint("more", i+1)))
	}
	if full() {
		t.Error("no space afterwards")
	}
}

// Where no disk can be mounted, all other faults stay as they are.
func TestWithoutDisks(t *testing.T) {
	cfg := chaos.Default()
	cfg.Duration, cfg.Faults = 30*time.Minute, 70
	rest := chaos.WithoutDisks(chaos.Plan(cfg))
	want := slices.DeleteFunc(chaos.Plan(cfg), func(f chaos.Fault) bool { return f.Kind == chaos.FullDisk })
	if !slices.Equal(rest, want) || len(rest) < 60 {
		t.Errorf("%d faults are left, want the %d others", len(rest), len(want))
	}
}
