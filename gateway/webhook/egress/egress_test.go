package egress_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/gateway/webhook/egress"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func TestCheck(t *testing.T) {
	tests := []struct {
		give string
		want string // word of the refusal; empty means allowed
	}{
		{"8.8.8.8", ""},
		{"100.63.255.255", ""},
		{"2606:4700:4700::1111", ""},
		{"::ffff:8.8.8.8", ""},
		{"127.0.0.1", "loopback"},
		{"127.9.9.9", "loopback"},
		{"0.0.0.0", "unspecified"},
		{"10.1.2.3", "private"},
		{"172.31.255.255", "private"},
		{"192.168.0.1", "private"},
		{"169.254.169.254", "link-local"},
		{"100.64.0.1", "carrier-grade"},
		{"198.19.0.1", "benchmarking"},
		{"224.0.0.1", "multicast"},
		{"255.255.255.255", "reserved"},
		{"::", "unspecified"},
		{"::1", "loopback"},
		{"::ffff:127.0.0.1", "loopback"},
		{"::ffff:169.254.169.254", "link-local"},
		{"::127.0.0.1", "reserved"},
		{"64:ff9b::7f00:1", "NAT64"},
		{"64:ff9b:1::1", "NAT64"},
		{"2002:7f00:1::1", "6to4"},
		{"2001:0:4136:e378::1", "reserved"},
		{"2001:db8::1", "documentation"},
		{"fe80::1%eth0", "link-local"},
		{"fd00:ec2::254", "private"},
		{"ff02::1", "multicast"},
		{"4000::1", "reserved"},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			err := egress.Policy{}.Check(netip.MustParseAddr(tt.give))
			if tt.want == "" {
				if err != nil {
					t.Errorf("Check = %v, want nil", err)
				}
				return
			}
			if !errors.Is(err, egress.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check = %v, want a refusal with %q", err, tt.want)
			}
		})
	}
	p := egress.Policy{AllowNetworks: loopback}
	for _, a := range []string{"127.0.0.1", "::ffff:127.0.0.1"} {
		if err := p.Check(netip.MustParseAddr(a)); err != nil {
			t.Errorf("Check(%s) with allowed loopback = %v", a, err)
		}
	}
	if err := p.Check(netip.MustParseAddr("10.0.0.1")); err == nil {
		t.Error("an allowed network opened another one")
	}
}

func TestCheckURL(t *testing.T) {
	strict, local := egress.Policy{}, egress.Policy{AllowNetworks: loopback}
	tests := []struct {
		give string
		p    egress.Policy
		want string
	}{
		{"https://partner.example/hooks?a=b", strict, ""},
		{"https://8.8.8.8:8443/", strict, ""},
		{"http://partner.example/", strict, "must use https"},
		{"http://partner.example/", egress.Policy{AllowHTTP: true}, ""},
		{"http://127.0.0.1:9/", local, ""},
		{"http://localhost:9/", local, ""},
		{"http://8.8.8.8/", local, "must use https"},
		{"ftp://partner.example/", strict, `must have the scheme https, not "ftp"`},
		{"/relative", strict, "absolute URL"},
		{"https://", strict, "absolute URL"},
		{"mailto:a@b", strict, "absolute URL"},
		{"https://u:p@partner.example/", strict, "user name"},
		{"https://partner.example/#x", strict, "fragment"},
		{"https://10.0.0.1/", strict, "private"},
		{"https://[::1]/", strict, "loopback"},
		{"https://[::ffff:169.254.169.254]/latest", strict, "link-local"},
		{"https://localhost/", strict, "loopback"},
		{"https://a.localhost./", strict, "loopback"},
		{"https://partner.example/" + strings.Repeat("a", 2048), strict, "at most"},
	}
	for _, tt := range tests {
		err := tt.p.CheckURL(tt.give)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("CheckURL(%.60q) = %v, want %q", tt.give, err, tt.want)
		}
	}
}

func do(t *testing.T, c *http.Client, url string) (*http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	return resp, err
}

func TestClient(t *testing.T) {
	var hits atomic.Int32
	var target string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		if r.URL.Path == "/from" {
			http.Redirect(w, r, target, http.StatusTemporaryRedirect)
		}
	}))
	defer srv.Close()
	target = srv.URL + "/to"
	name := strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)

	for _, url := range []string{srv.URL, name} {
		if resp, err := do(t, egress.Client(egress.Policy{AllowHTTP: true}, 1), url); !errors.Is(err, egress.ErrRefused) {
			if err == nil {
				_ = resp.Body.Close()
			}
			t.Errorf("POST %s = %v, want refused", url, err)
		}
	}
	if hits.Load() != 0 {
		t.Fatal("a refused target was reached")
	}

	c := egress.Client(egress.Policy{AllowNetworks: loopback}, 1)
	defer c.CloseIdleConnections()
	resp, err := do(t, c, srv.URL+"/from")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || hits.Load() != 1 {
		t.Errorf("status %d after %d requests, want 307 after 1", resp.StatusCode, hits.Load())
	}
}
