package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/app"
	"weft.dev/weft/mesh"
)

func TestMeshAndDoctor(t *testing.T) {
	cfg := app.DefaultConfig()
	cfg.Site = "fra"
	cfg.Mesh.Links.Sites = []mesh.Link{{
		Name: "iad", URLs: []string{"nats://127.0.0.1:1"}, Secret: "sixteen-characters", Export: []string{">"}, Import: []string{">"},
	}}
	server := nodeOf(t, cfg)
	out := command(t.Context(), "", "mesh", "--server", server).out
	for _, want := range []string{"site    fra", "NODE ", "test-1 ", "leader", "ROOM ", "iad ", "down", "STREAM ", "EVENTS "} {
		if !strings.Contains(out, want) {
			t.Errorf("mesh = %s\nwant %q in it", out, want)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		r := command(t.Context(), "", "mesh", "doctor", "--server", server)
		if strings.Contains(r.out, "ERROR link_down (iad)") && strings.Contains(r.out, "connection refused") && strings.Contains(r.out, "do: ") {
			if ExitCode(r.failure) != 1 || !strings.Contains(r.failure.Error(), "errors") {
				t.Errorf("doctor ends with %v, want status 1", r.failure)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("doctor = %s, %v", r.out, r.failure)
		}
	}
	var d mesh.Diagnosis
	r := command(t.Context(), "", "mesh", "doctor", "-o", "json", "--server", server)
	if err := json.Unmarshal([]byte(r.out), &d); err != nil || len(d.Findings) == 0 || ExitCode(r.failure) != 1 {
		t.Errorf("doctor -o json = %s, %v, %v", r.out, err, r.failure)
	}
}

func TestDoctorOfAHealthyNode(t *testing.T) {
	r := command(t.Context(), "", "mesh", "doctor", "--server", node(t))
	if r.failure != nil { // a warning, such as of a small disk, is none
		t.Errorf("doctor = %s, %v", r.out, r.failure)
	}
}

// Each code is explained in the runbook.
func TestRunbookHasEveryCode(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "..", "mesh", "doctor.go"))
	if err != nil {
		t.Fatal(err)
	}
	book, err := os.ReadFile(filepath.Join("..", "..", "docs", "mesh.md"))
	if err != nil {
		t.Fatal(err)
	}
	codes := strings.Split(string(source), `Code: "`)[1:]
	if len(codes) < 10 {
		t.Fatalf("%d codes found", len(codes))
	}
	for _, rest := range codes {
		if code, _, _ := strings.Cut(rest, `"`); !strings.Contains(string(book), "### "+code+"\n") {
			t.Errorf("docs/mesh.md has no section %s", code)
		}
	}
}
