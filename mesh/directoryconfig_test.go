package mesh_test

import (
	"strings"
	"testing"

	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

func TestDirectoryConfig(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		edit func(l *mesh.Links)
		want string // in the error; empty: none
	}{
		{"first site", func(*mesh.Links) {}, ""},
		{"new site that only dials", func(l *mesh.Links) { l.Listen, l.Directory.Join = "", []string{"tls://fra.example:7422"} }, ""},
		{"edge", func(l *mesh.Links) {
			l.Listen, l.Directory.Role, l.Directory.Join = "", "edge", []string{"tls://fra.example:7422", "wss://iad.example"}
		}, ""},
		{"off", func(l *mesh.Links) { l.Directory.Secret = "" }, ""},
		{"join without secret", func(l *mesh.Links) { l.Directory.Secret, l.Directory.Join = "", []string{"tls://a"} }, "links.directory.secret: want the secret of the mesh"},
		{"short secret", func(l *mesh.Links) { l.Directory.Secret = "short" }, "links.directory.secret: want at least 16 characters"},
		{"unknown role", func(l *mesh.Links) { l.Directory.Role = "leaf" }, `links.directory.role: want core or edge, have "leaf"`},
		{"no URL", func(l *mesh.Links) { l.Directory.Join = []string{"fra.example:7422"} }, "links.directory.join[0]: want a URL"},
		{"join in clear", func(l *mesh.Links) { l.Directory.Join = []string{"nats://fra.example:7422"} }, "links.directory.join[0]: want tls://"},
		{"a user in join", func(l *mesh.Links) { l.Directory.Join = []string{"tls://u:p@fra.example:7422"} }, "links.directory.join[0]: want no user"},
		{"two kinds", func(l *mesh.Links) { l.Directory.Advertise = []string{"tls://a:1", "wss://a:2"} }, "links.directory.advertise[1]: want tls://"},
		{"too many", func(l *mesh.Links) { l.Directory.Advertise = strings.Fields(strings.Repeat("tls://a:1 ", 9)) }, "links.directory.advertise: want at most 8"},
		{"no address to dial", func(l *mesh.Links) { l.Listen, l.Plaintext = "0.0.0.0:7422", true }, "links.directory.advertise: want the addresses"},
		{"edge that is dialled", func(l *mesh.Links) {
			l.Directory.Role, l.Directory.Join, l.Directory.Advertise = "edge", []string{"tls://a:1"}, []string{"tls://b:1"}
		}, "links.directory.advertise: want none"},
		{"edge without home", func(l *mesh.Links) { l.Listen, l.Directory.Role = "", "edge" }, "links.directory.join: want the address of the edge's home"},
		{"nobody can meet it", func(l *mesh.Links) { l.Listen = "" }, "links.directory.join: want the address of a site"},
		{"export", func(l *mesh.Links) { l.Directory.Export = []string{"a..b"} }, "links.directory.export[0]: "},
		{"proxy", func(l *mesh.Links) { l.Directory.Proxy = "proxy:3128" }, "links.directory.proxy: want a URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := local()
			cfg.Links.Listen, cfg.Links.Directory.Secret = "127.0.0.1:7422", meshSecret
			tt.edit(&cfg.Links)
			err := cfg.ValidateAt("a")
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("validate = %v, want %q", err, tt.want)
			}
		})
	}
}

// The nodes of a site need one NKey, which no node can make by itself.
func TestDirectoryConfigOfACluster(t *testing.T) {
	t.Parallel()
	cfg := local()
	cfg.Cluster = mesh.Cluster{Listen: "127.0.0.1:6222", Size: 3}
	cfg.Gossip = mesh.Gossip{Listen: "127.0.0.1:7946", Key: wefttest.Key}
	cfg.Links.Directory.Secret, cfg.Links.Directory.Join = meshSecret, []string{"tls://a:1"}
	if err := cfg.ValidateAt("a"); err == nil || !strings.Contains(err.Error(), "want mesh.links.nkey too") {
		t.Errorf("validate = %v", err)
	}
	cfg.Links.NKey = seedOf(t)
	if err := cfg.ValidateAt("a"); err != nil {
		t.Errorf("validate = %v", err)
	}
	cfg.Links.Listen = "127.0.0.1:7422"
	if err := cfg.ValidateAt("a"); err == nil || !strings.Contains(err.Error(), "links.directory.advertise: want the addresses") {
		t.Errorf("validate = %v", err)
	}
}
