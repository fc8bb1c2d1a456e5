package mesh_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/pki"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// A certificate that cannot work is refused at the start, by its key.
func TestCertificatesRefused(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	good, second, foreign := ca.site(t, "a", "127.0.0.1"), ca.site(t, "b"), other.site(t, "c")
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := mesh.TLS{CA: good.CA, Cert: filepath.Join(dir, "old.pem"), Key: filepath.Join(dir, "old.key")}
	expired, err := ca.Issue(pki.Request{Site: "a", Until: time.Now().Add(time.Second)})
	if err == nil {
		err = expired.Write(old.Cert, old.Key)
	}
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		give mesh.TLS
		at   time.Duration // from now
		key  string
		want string
	}{
		{"good", good, 0, "", ""},
		{"none", mesh.TLS{}, 0, "", ""},
		{"no authority's file", mesh.TLS{CA: filepath.Join(dir, "none"), Cert: good.Cert, Key: good.Key}, 0, "mesh.tls.ca", "none: no such file"},
		{"no certificate's file", mesh.TLS{CA: good.CA, Cert: filepath.Join(dir, "none"), Key: good.Key}, 0, "mesh.tls.cert", "none: no such file"},
		{"no key's file", mesh.TLS{CA: good.CA, Cert: good.Cert, Key: filepath.Join(dir, "none")}, 0, "mesh.tls.key", "none: no such file"},
		{"authority not PEM", mesh.TLS{CA: garbage, Cert: good.Cert, Key: good.Key}, 0, "mesh.tls.ca", "PEM"},
		{"certificate not PEM", mesh.TLS{CA: good.CA, Cert: garbage, Key: good.Key}, 0, "mesh.tls.cert", "PEM"},
		{"key not PEM", mesh.TLS{CA: good.CA, Cert: good.Cert, Key: garbage}, 0, "mesh.tls.key", "PEM"},
		{"certificate in place of the key", mesh.TLS{CA: good.CA, Cert: good.Cert, Key: good.Cert}, 0, "mesh.tls.key", "PEM"},
		{"another key", mesh.TLS{CA: good.CA, Cert: good.Cert, Key: second.Key}, 0, "mesh.tls.key", "is not the key of"},
		{"another authority", mesh.TLS{CA: good.CA, Cert: foreign.Cert, Key: foreign.Key}, 0, "mesh.tls.cert", "mesh.tls.ca"},
		{"expired", old, time.Minute, "mesh.tls.cert", "expired on"},
		{"not yet", good, -time.Hour, "mesh.tls.cert", "clock"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.give.Check(time.Now().Add(tt.at))
			var field *conf.FieldError
			switch {
			case tt.key == "" && err != nil:
				t.Errorf("err = %v", err)
			case tt.key != "" && (!errors.As(err, &field) || field.Path != tt.key || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("err = %v, want %s: %s", err, tt.key, tt.want)
			}
		})
	}
	cfg := local()
	cfg.TLS = mesh.TLS{CA: good.CA, Cert: good.Cert, Key: second.Key}
	n, err := mesh.New(cfg, wefttest.Deps(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	var field *conf.FieldError
	if err := n.Run(t.Context()); !errors.As(err, &field) || field.Path != "mesh.tls.key" {
		t.Errorf("a node with another certificate's key ended with %v", err)
	}
}

// What would send secrets in the clear, or cannot be dialled, is refused.
func TestLinkSettings(t *testing.T) {
	seed, public, err := pki.NKey()
	if err != nil {
		t.Fatal(err)
	}
	_, peer, err := pki.NKey()
	if err != nil {
		t.Fatal(err)
	}
	link := func(l mesh.Link) func(*mesh.Config) {
		return func(c *mesh.Config) {
			l.Name = "b"
			if l.PublicKey == "" && l.Secret == "" {
				l.Secret = wefttest.Secret
			}
			c.Links.Listen = "127.0.0.1:0"
			c.Links.Sites = append(c.Links.Sites, l)
		}
	}
	dial := func(urls ...string) func(*mesh.Config) { return link(mesh.Link{URLs: urls}) }
	keyed := func(seed, public string) func(*mesh.Config) {
		return func(c *mesh.Config) {
			c.Links.NKey = conf.Secret(seed)
			link(mesh.Link{PublicKey: public})(c)
		}
	}
	tests := []struct {
		name string
		give func(*mesh.Config)
		want string // the key at fault, "" if none
	}{
		{"tls", dial("tls://b:7422", "tls://c"), ""},
		{"wss", dial("wss://b/links"), ""},
		{"plain on loopback", dial("nats://127.0.0.1:7422", "nats://[::1]", "nats-leaf://localhost"), ""},
		{"plain", dial("nats://b:7422"), "links.sites[0].urls[0]"},
		{"plain on purpose", func(c *mesh.Config) { c.Links.Plaintext = true; dial("nats://b:7422")(c) }, ""},
		{"two kinds", dial("tls://b:7422", "wss://b"), "links.sites[0].urls[1]"},
		{"password in the address", dial("tls://u:p@b:7422"), "links.sites[0].urls[0]"},
		{"open listener", func(c *mesh.Config) { c.Links.Listen = "0.0.0.0:7422" }, "links.listen"},
		{"open listener with tls", func(c *mesh.Config) {
			c.Links.Listen, c.TLS = "0.0.0.0:7422", mesh.TLS{CA: "ca", Cert: "cert", Key: "key"}
		}, ""},
		{"open websocket", func(c *mesh.Config) { c.Links.WebSocket.Listen = ":8443" }, "links.websocket.listen"},
		{"half of tls", func(c *mesh.Config) { c.TLS = mesh.TLS{CA: "ca", Cert: "cert"} }, "tls.key"},
		{"nkeys", keyed(seed, peer), ""},
		{"own key for the peer", keyed(seed, public), "links.sites[0].publicKey"},
		{"no seed", keyed("", peer), "links.nkey"},
		{"public key for the seed", keyed(public, peer), "links.nkey"},
		{"seed for the public key", keyed(seed, seed), "links.sites[0].publicKey"},
		{"key and secret", func(c *mesh.Config) {
			c.Links.NKey = conf.Secret(seed)
			link(mesh.Link{PublicKey: peer, Secret: wefttest.Secret})(c)
		}, "links.sites[0].publicKey"},
		{"one key for two sites", func(c *mesh.Config) {
			keyed(seed, peer)(c)
			link(mesh.Link{PublicKey: peer})(c)
			c.Links.Sites[1].Name = "c"
		}, "links.sites[1].publicKey"},
		{"proxy", link(mesh.Link{URLs: []string{"tls://b"}, Proxy: "http://u:p@proxy:3128"}), ""},
		{"socks", link(mesh.Link{URLs: []string{"tls://b"}, Proxy: "socks5://proxy"}), "links.sites[0].proxy"},
		{"half of a proxy's user", link(mesh.Link{URLs: []string{"tls://b"}, Proxy: "http://u@proxy:3128"}), "links.sites[0].proxy"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := local()
			tt.give(&cfg)
			err := cfg.Validate()
			wantField(t, err, tt.want)
			for _, secret := range []string{seed, "u:p@"} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("the message shows a secret: %v", err)
				}
			}
		})
	}
}

// wantField wants a mistake in the key; none if that is empty.
func wantField(t *testing.T, err error, key string) {
	t.Helper()
	var field *conf.FieldError
	switch {
	case key == "" && err != nil:
		t.Errorf("err = %v", err)
	case key != "" && (!errors.As(err, &field) || field.Path != key):
		t.Errorf("err = %v, want %s", err, key)
	}
}
