package app_test

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/internal/app"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/sidecar"
)

var update = flag.Bool("update", false, "write docs/config.md")

// docs/config.md is what the configuration types say.
func TestConfigReference(t *testing.T) {
	const file = "../../docs/config.md"
	node := app.DefaultConfig()
	node.Node = "" // the host's name
	want, err := conf.Reference(
		conf.Part{Title: "weft run", Defaults: node},
		conf.Part{Title: "weft sidecar", Defaults: sidecar.DefaultConfig()},
	)
	if err != nil {
		t.Error(err)
	}
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("docs/config.md is out of date, run make docs (-have +want):\n%s", diff)
	}
}
