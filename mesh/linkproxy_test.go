package mesh_test

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/mesh"
)

// proxy is an HTTP proxy that connects those who know its user anywhere.
type proxy struct {
	*httptest.Server

	mu      sync.Mutex
	targets []string // guarded by mu
	refused int      // guarded by mu
}

func newProxy(t *testing.T, user, password string) *proxy {
	t.Helper()
	p := &proxy{}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ok := r.Method == http.MethodConnect && r.Header.Get("Proxy-Authorization") == want
		p.mu.Lock()
		if ok {
			p.targets = append(p.targets, r.Host)
		} else {
			p.refused++
		}
		p.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		tunnel(w, r.Host)
	}))
	t.Cleanup(p.Close)
	return p
}

// tunnel joins a client and its target until either closes.
func tunnel(w http.ResponseWriter, target string) {
	there, err := (&net.Dialer{}).Dial("tcp", target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = there.Close()
		return
	}
	_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(there, here)
		_ = there.Close()
	}()
	_, _ = io.Copy(here, there)
	_ = here.Close()
}

// A site behind a proxy reaches the others through it, and never past it.
func TestLinkThroughProxy(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	tlsA, tlsB := ca.site(t, "a", "127.0.0.1"), ca.site(t, "b")
	for _, kind := range []string{"nats", "tls", "wss"} {
		t.Run(kind, func(t *testing.T) {
			way := newProxy(t, "weft", "let-me-out")
			p := joined(t, func(a, b *mesh.Config) {
				l := &b.Links.Sites[0]
				l.Proxy = conf.Secret("http://weft:let-me-out@" + way.Listener.Addr().String())
				if kind != "nats" {
					a.TLS, b.TLS = tlsA, tlsB
				}
				if kind == "wss" {
					a.Links.WebSocket.Listen = "127.0.0.1:0"
					l.URLs = []string{"websocket"}
				}
			})
			publish(t, p.node["a"].Bus(), "orders.created", "a", 50)
			publish(t, p.node["b"].Bus(), "orders.created", "b", 50)
			level(t, p.node["a"].Bus(), p.node["b"].Bus(), 100)
			way.mu.Lock()
			defer way.mu.Unlock()
			if len(way.targets) == 0 || way.refused > 0 {
				t.Errorf("the proxy connected %v and refused %d", way.targets, way.refused)
			}
		})
	}
}
