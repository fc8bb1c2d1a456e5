package wefttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Volume is a small file system of its own that can be filled.
type Volume struct {
	t       testing.TB
	ballast string
}

// Mount mounts a volume at dir until the test ends, or skips the test where that
// is not allowed.
func Mount(t testing.TB, dir string) Volume {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("file systems are mounted by root on Linux only")
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=128m,mode=700", "weft-test", dir).CombinedOutput(); err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil { //nolint:noctx // the test's context has ended
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	return Volume{t, filepath.Join(dir, "ballast")}
}

// Fill leaves not one block free.
func (v Volume) Fill() {
	v.t.Helper()
	f, err := os.Create(v.ballast)
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4<<10); err == nil; {
		_, err = f.Write(block)
	}
}

// Free gives the space back.
func (v Volume) Free() {
	v.t.Helper()
	if err := os.Remove(v.ballast); err != nil {
		v.t.Fatal(err)
	}
}
