package mesh_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// shown is the certificate that a link listener shows, to one with a certificate.
func shown(t *testing.T, url string, with mesh.TLS, websocket bool) *x509.Certificate {
	t.Helper()
	_, addr, _ := strings.Cut(url, "://")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !websocket {
		if _, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.LoadX509KeyPair(with.Cert, with.Key)
	if err != nil {
		t.Fatal(err)
	}
	client := tls.Client(conn, &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}) // it is looked at below
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return client.ConnectionState().PeerCertificates[0]
}

// A renewed certificate is used without a restart and without cutting the link;
// one that cannot work leaves the old one in use.
func TestCertificatesRenewed(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	tlsA, tlsB := ca.site(t, "a", "127.0.0.1"), ca.site(t, "b")
	p := joined(t, func(a, b *mesh.Config) {
		a.TLS, b.TLS = tlsA, tlsB
		a.Links.WebSocket.Listen = "127.0.0.1:0"
	})
	up(t, p)
	n := p.node["a"]
	look := n.Certificates()
	first := shown(t, n.LinkURL(), tlsB, false)
	replace := func(from mesh.TLS) {
		t.Helper()
		for src, dst := range map[string]string{from.Cert: tlsA.Cert, from.Key: tlsA.Key} {
			if err := os.Rename(src, dst); err != nil {
				t.Fatal(err)
			}
			later := time.Now().Add(time.Second)
			if err := os.Chtimes(dst, later, later); err != nil {
				t.Fatal(err)
			}
		}
	}
	look(t.Context())
	if !shown(t, n.LinkURL(), tlsB, false).Equal(first) {
		t.Error("the certificate changed by itself")
	}
	replace(ca.site(t, "a-renewed", "127.0.0.1"))
	look(t.Context())
	second := shown(t, n.LinkURL(), tlsB, false)
	if second.Subject.CommonName != "a-renewed" || !shown(t, n.LinkWebSocketURL(), tlsB, true).Equal(second) {
		t.Errorf("the server shows the certificate of %s", second.Subject.CommonName)
	}
	replace(newAuthority(t).site(t, "a-foreign", "127.0.0.1"))
	look(t.Context())
	if !shown(t, n.LinkURL(), tlsB, false).Equal(second) {
		t.Error("a certificate of another authority is in use")
	}
	if st, err := p.node["b"].Status(t.Context()); err != nil || !st.Links[0].Up || time.Since(st.Links[0].Since) < 0 {
		t.Errorf("the link: %+v, %v", st.Links, err)
	}
	publish(t, n.Bus(), "orders.created", "a", 20)
	level(t, n.Bus(), p.node["b"].Bus(), 20)
}

// NATS clients cannot use the WebSocket listener of links, with no credentials
// and with any that the server knows.
func TestWebSocketTakesLinksOnly(t *testing.T) {
	t.Parallel()
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = "127.0.0.1:0"
	cfg.Links.WebSocket.Listen = "127.0.0.1:0"
	cfg.Links.Sites = []mesh.Link{{Name: "b", Secret: wefttest.Secret}}
	open := wefttest.Start(t, cfg, wefttest.Deps(t, "a"))
	cfg.Client.Users = []mesh.User{{Name: "app", Password: "password"}}
	closed := wefttest.Start(t, cfg, wefttest.Deps(t, "a"))
	for _, n := range []*mesh.Node{open, closed} {
		for _, opt := range []nats.Option{nats.Name("nobody"), nats.UserInfo("app", "password"), nats.UserInfo("link-b", wefttest.Secret.Reveal())} {
			if nc, err := nats.Connect(n.LinkWebSocketURL(), opt, nats.Timeout(2*time.Second)); err == nil {
				nc.Close()
				t.Error("a client connected to the WebSocket listener of links")
			}
		}
	}
	if nc, err := nats.Connect(closed.ClientURL(), nats.UserInfo("app", "password")); err != nil {
		t.Errorf("the client's own listener: %v", err)
	} else {
		nc.Close()
	}
}
