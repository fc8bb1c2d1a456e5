package loadtest_test

import (
	"net"
	"net/http"
	"testing"

	"weft.dev/weft/gateway"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
)

// node is a real node with its gateway; it returns the base URL. What mount adds
// by pattern is served beside.
func node(t *testing.T, mount func(b *bus.Bus) map[string]http.Handler) string {
	t.Helper()
	b := wefttest.Node(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := gateway.Deps{Scope: obs.Discard(), Log: b, Publisher: b, Site: "test", Node: "test-1", Listener: l}
	if mount != nil {
		d.Mount = mount(b)
	}
	srv, err := gateway.New(gateway.DefaultConfig(), d)
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, srv.Run)
	<-srv.Ready()
	return "http://" + l.Addr().String()
}
