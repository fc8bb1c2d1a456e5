package cli

import (
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/app"
	"weft.dev/weft/internal/wefttest"
)

// Two sites of one directory are listed at each, and one lets go of the other.
func TestMeshSitesAndForget(t *testing.T) {
	site := func(name, listen string, join ...string) string {
		cfg := app.DefaultConfig()
		cfg.Site, cfg.Mesh.Links.Listen = name, listen
		cfg.Mesh.Links.Directory.Secret, cfg.Mesh.Links.Directory.Join = "sixteen-characters", join
		return nodeOf(t, cfg)
	}
	addr := wefttest.FreeAddr(t)
	fra := site("fra", addr)
	iad := site("iad", wefttest.FreeAddr(t), "nats://"+addr, "nats://127.0.0.1:1")
	shows := func(server string, want ...string) {
		t.Helper()
		out := ""
		for deadline := time.Now().Add(20 * time.Second); ; {
			out = command(t.Context(), "", "mesh", "sites", "--server", server).out
			missing := false
			for _, w := range want {
				missing = missing || !strings.Contains(out, w)
			}
			if !missing {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("sites = %s\nwant %q in it", out, want)
			}
		}
	}
	shows(fra, "SITE", "fra ", "this site", "iad ", "up", "nats://"+addr)
	shows(iad, "fra ", "iad ", "join nats://127.0.0.1:1: not used yet")
	if r := command(t.Context(), "", "mesh", "forget", "nowhere", "--server", fra); r.failure == nil || !strings.Contains(r.failure.Error(), "no such site") {
		t.Errorf("forget a site that is not there: %v", r.failure)
	}
	if r := command(t.Context(), "", "mesh", "forget", "fra", "--server", fra); r.failure == nil || !strings.Contains(r.failure.Error(), "ask at another site") {
		t.Errorf("forget the site itself: %v", r.failure)
	}
	if r := command(t.Context(), "", "mesh", "forget", "iad", "--server", fra); r.failure != nil || !strings.Contains(r.out, "forgotten iad") {
		t.Errorf("forget = %s, %v", r.out, r.failure)
	}
	shows(fra, "forgotten: site iad with key U")
	if out := command(t.Context(), "", "mesh", "sites", "--server", node(t)).out; !strings.Contains(out, "mesh.links.directory is not set") {
		t.Errorf("sites of a node without directory = %s", out)
	}
}
