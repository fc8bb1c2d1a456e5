package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// A file of a site of one node is refused by the name of the setting; that of a
// site of three prepares the history, once.
func TestMeshGrow(t *testing.T) {
	d := wefttest.Deps(t, "fra")
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = ""
	_, stop := wefttest.StartStop(t, cfg, d)
	stop()
	file := filepath.Join(t.TempDir(), "weft.yaml")
	write := func(mesh string) {
		t.Helper()
		text := fmt.Sprintf("site: fra\nnode: fra-1\ndata: %s\n%s", d.Dir, mesh)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	if r := command(t.Context(), "", "mesh", "grow", "-c", file); r.failure == nil || !strings.Contains(r.failure.Error(), "mesh.cluster.size: want 3 or more") {
		t.Errorf("a site of one node: %v", r.failure)
	}
	write(`mesh:
  cluster: {listen: "127.0.0.1:6222", size: 3}
  gossip: {listen: "127.0.0.1:7946", key: "sixteen-characters"}
`)
	for _, want := range []string{"The history of site fra is prepared: ", "has been prepared before: "} {
		r := command(t.Context(), "", "mesh", "grow", "-c", file)
		if r.failure != nil || !strings.Contains(r.out, want) || !strings.Contains(r.out, "Node fra-1 brings the history") {
			t.Errorf("mesh grow = %s, %v\nwant %q", r.out, r.failure, want)
		}
	}
	if r := command(t.Context(), "", "mesh", "grow"); ExitCode(r.failure) != 2 {
		t.Errorf("without a file: %v, want a usage error", r.failure)
	}
}
