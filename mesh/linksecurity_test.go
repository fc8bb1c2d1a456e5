package mesh_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/pki"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// authority makes certificates for the sites of a test.
type authority struct {
	pki.Pair
	dir string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	ca, err := pki.NewAuthority("test", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := ca.Write(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	return authority{ca, dir}
}

// site makes a certificate for a site that is dialled at the hosts.
func (a authority) site(t *testing.T, name string, hosts ...string) mesh.TLS {
	t.Helper()
	pair, err := a.Issue(pki.Request{Site: name, Hosts: hosts, Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	out := mesh.TLS{CA: filepath.Join(a.dir, "ca.pem"), Cert: filepath.Join(a.dir, name+".pem"), Key: filepath.Join(a.dir, name+".key")}
	if err := pair.Write(out.Cert, out.Key); err != nil {
		t.Fatal(err)
	}
	return out
}

// identities gives both sites an NKey in place of their secret.
func identities(t *testing.T, a, b *mesh.Config) {
	t.Helper()
	for _, s := range []struct{ own, other *mesh.Config }{{a, b}, {b, a}} {
		seed, public, err := pki.NKey()
		if err != nil {
			t.Fatal(err)
		}
		s.own.Links.NKey = conf.Secret(seed)
		s.other.Links.Sites[0].PublicKey, s.other.Links.Sites[0].Secret = public, ""
	}
}

// joined are two sites of which b dials a, as edit configures them. The address
// that b dials is a's link URL unless the configuration of b has one.
func joined(t *testing.T, edit func(a, b *mesh.Config)) *pair {
	t.Helper()
	p := &pair{map[string]mesh.Config{}, map[string]mesh.Deps{}, map[string]*mesh.Node{}, map[string]func(){}}
	a, b := local(), local()
	a.Links.Listen = "127.0.0.1:0"
	a.Links.Sites = []mesh.Link{{Name: "b", Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}}
	b.Links.Sites = []mesh.Link{{Name: "a", Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}}
	edit(&a, &b)
	p.deps["a"], p.deps["b"] = wefttest.Deps(t, "a"), wefttest.Deps(t, "b")
	t.Cleanup(func() {
		for _, stop := range p.stop {
			stop()
		}
	})
	p.cfg["a"] = a
	p.start(t, "a")
	if l := &b.Links.Sites[0]; len(l.URLs) == 0 {
		l.URLs = []string{p.node["a"].LinkURL()}
	} else if l.URLs[0] == "websocket" {
		l.URLs = []string{p.node["a"].LinkWebSocketURL()}
	}
	p.cfg["b"] = b
	p.start(t, "b")
	return p
}

// up waits until both sites have heard each other.
func up(t *testing.T, p *pair) {
	t.Helper()
	wefttest.Eventually(t, 20*time.Second, "link up at both sites", func() bool {
		for _, n := range p.node {
			if st, err := n.Status(t.Context()); err != nil || !st.Links[0].Up {
				return false
			}
		}
		return true
	})
}

// Events cross with each way to be safe and to get there.
func TestLinkKinds(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	tlsA, tlsB := ca.site(t, "a", "127.0.0.1"), ca.site(t, "b", "127.0.0.1")
	websocket := func(a, b *mesh.Config) {
		a.Links.Listen, a.Links.WebSocket.Listen = "", "127.0.0.1:0"
		b.Links.Sites[0].URLs = []string{"websocket"}
	}
	tests := []struct {
		name, scheme string
		edit         func(a, b *mesh.Config)
	}{
		{"tls", "tls", func(a, b *mesh.Config) { a.TLS, b.TLS = tlsA, tlsB }},
		{"nkeys", "nats", func(a, b *mesh.Config) { identities(t, a, b) }},
		{"tls and nkeys", "tls", func(a, b *mesh.Config) { a.TLS, b.TLS = tlsA, tlsB; identities(t, a, b) }},
		{"websocket", "ws", websocket},
		{"websocket with tls and nkeys", "wss", func(a, b *mesh.Config) {
			websocket(a, b)
			a.TLS, b.TLS = tlsA, tlsB
			identities(t, a, b)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := joined(t, tt.edit)
			if url := p.cfg["b"].Links.Sites[0].URLs[0]; !strings.HasPrefix(url, tt.scheme+"://") {
				t.Fatalf("b dials %s", url)
			}
			publish(t, p.node["a"].Bus(), "orders.created", "a", 50)
			publish(t, p.node["b"].Bus(), "orders.created", "b", 50)
			level(t, p.node["a"].Bus(), p.node["b"].Bus(), 100)
			up(t, p)
		})
	}
}
