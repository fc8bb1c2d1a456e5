package gateway_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"weft.dev/weft/internal/wefttest"
)

// TestForeignClients speaks to a gateway on a real node with npm ws and npm
// cloudevents.
func TestForeignClients(t *testing.T) {
	dir := filepath.Join("..", "test", "foreign")
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "node_modules", "ws"))
	}
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("npm ci in test/foreign must have run: %v", err)
		}
		t.Skipf("needs node and npm ci in test/foreign: %v", err)
	}
	addr := start(t, nil, onNode(wefttest.Node(t)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "gateway.mjs", addr)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
