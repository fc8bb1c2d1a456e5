package house_test

import (
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"weft.dev/weft/internal/house"
)

// root is the repository's, seen from this package.
const root = "../.."

func TestGoFiles(t *testing.T) {
	got, err := house.Go(os.DirFS(root))
	report(t, got, err)
}

func TestDocuments(t *testing.T) {
	got, err := house.Docs(os.DirFS(root))
	report(t, got, err)
}

func TestDependencyList(t *testing.T) {
	tree := os.DirFS(root)
	goMod, err := fs.ReadFile(tree, "go.mod")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := fs.ReadFile(tree, "docs/dependencies.md")
	report(t, house.Dependencies(string(goMod), string(doc)), err)
}

// The slim sidecar is small because it links neither the server nor gRPC.
func TestSidecarLinksNoServer(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./sidecar/...", "./cmd/weft-sidecar")
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	for pkg := range strings.Lines(string(out)) {
		for _, heavy := range []string{"github.com/nats-io/nats-server/", "google.golang.org/grpc", house.Module + "/mesh"} {
			if strings.HasPrefix(pkg, heavy) {
				t.Errorf("the slim sidecar links %s", strings.TrimSpace(pkg))
			}
		}
	}
}

func report(t *testing.T, got []house.Breach, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range got {
		t.Error(b)
	}
}
