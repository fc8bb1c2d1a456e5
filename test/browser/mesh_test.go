package browser_test

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"weft.dev/weft/internal/app"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/mesh"
)

// The mesh page shows a link cut, and up once the other site comes.
func TestMeshPageFollowsALink(t *testing.T) {
	chromium, web := tools(t)
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listen.Addr().String()
	if err := listen.Close(); err != nil {
		t.Fatal(err)
	}
	url := runSite(t, "fra", mesh.Links{Sites: []mesh.Link{between("iad", "nats://"+addr)}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "test/mesh.mjs", url, "iad")
	cmd.Dir = web
	cmd.Env = append(os.Environ(), "CHROMIUM="+chromium)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		t.Log(lines.Text())
		if lines.Text() == "cut" {
			runSite(t, "iad", mesh.Links{Listen: addr, Sites: []mesh.Link{between("fra")}})
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &errs)
	}
}

func between(site string, urls ...string) mesh.Link {
	return mesh.Link{Name: site, URLs: urls, Secret: "browser-link-secret", Export: []string{">"}, Import: []string{">"}}
}

// runSite runs a site of one node until the test ends and returns its console.
func runSite(t *testing.T, site string, links mesh.Links) string {
	t.Helper()
	cfg := app.DefaultConfig()
	cfg.Site, cfg.Node, cfg.Data = site, site+"-1", t.TempDir()
	cfg.Mesh.Client.Listen, cfg.Gateway.Listen, cfg.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Mesh.Links = links
	n, err := app.New(cfg, app.Deps{Log: obs.Discard().Log, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("site %s: %v", site, err)
		}
	})
	select {
	case <-n.Ready():
	case <-time.After(30 * time.Second):
		t.Fatalf("site %s is not ready", site)
	}
	return "http://" + n.Addr("admin")
}
