package mesh_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft.dev/weft/internal/wefttest"
)

// The server uses the memory file system for batches where it is told to, and
// nothing stays there after a stop. A new server version that stages elsewhere
// fails here.
func TestStaging(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip("no memory file system")
	}
	deps := wefttest.Deps(t, "stage")
	n, stop := wefttest.StartStop(t, local(), deps)
	link := filepath.Join(deps.Dir, "nats", "jetstream", "WEFT", "streams", "EVENTS", "batches")
	area, err := os.Readlink(link)
	if err != nil || !strings.HasPrefix(area, "/dev/shm/weft-stage-") {
		t.Fatalf("staging area %q, %v", area, err)
	}
	before, err := os.Stat(area)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, n.Bus(), "orders.created", "1", 100)
	after, err := os.Stat(area)
	if err != nil || !after.ModTime().After(before.ModTime()) {
		t.Errorf("the server did not stage a batch there: %v", err)
	}
	if still, err := os.Readlink(link); err != nil || still != area {
		t.Errorf("the link became %q, %v", still, err)
	}
	stop()
	if _, err := os.Stat(area); !os.IsNotExist(err) {
		t.Errorf("the area is still there: %v", err)
	}
}
