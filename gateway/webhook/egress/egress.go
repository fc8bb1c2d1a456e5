// Package egress is the way out to addresses that strangers configured: an
// HTTP client that refuses private and reserved networks at the moment of
// dialing, follows no redirect and is bounded in time and size. It is no
// general proxy and no firewall. No compatibility promise.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// ErrRefused marks a target that the policy does not allow.
var ErrRefused = errors.New("target refused")

// maxURL is the longest accepted URL; longer ones are cut by real servers.
const maxURL = 2048

// Policy says where requests may go.
type Policy struct {
	// AllowNetworks are reached although they are private or reserved.
	AllowNetworks []netip.Prefix
	// AllowHTTP permits plain HTTP to any allowed address; without it plain
	// HTTP goes to AllowNetworks only.
	AllowHTTP bool
}

// refused lists the IPv4 networks that are not the public internet, and the
// IPv6 ones inside 2000::/3; all other IPv6 space is refused as a whole. The
// second field is the word used in errors.
var refused = []struct {
	net  netip.Prefix
	name string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"}, // cloud metadata lives here
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation"},
	{netip.MustParsePrefix("192.31.196.0/24"), "reserved"},
	{netip.MustParsePrefix("192.52.193.0/24"), "reserved"},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("192.175.48.0/24"), "reserved"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("2001::/23"), "reserved"}, // Teredo, ORCHID, benchmarking
	{netip.MustParsePrefix("2001:db8::/32"), "documentation"},
	{netip.MustParsePrefix("2002::/16"), "6to4"},
	{netip.MustParsePrefix("3fff::/20"), "documentation"},
}

var globalV6 = netip.MustParsePrefix("2000::/3")

// kindsV6 names the refused space outside 2000::/3 for better errors.
var kindsV6 = []struct {
	net  netip.Prefix
	name string
}{
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("64:ff9b::/96"), "NAT64"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "NAT64"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// Check refuses an address that is not on the public internet, unless it lies
// in AllowNetworks. IPv4 addresses mapped into IPv6 count as IPv4.
func (p Policy) Check(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return fmt.Errorf("check address: %w: not an IP address", ErrRefused)
	}
	if p.allowed(a) {
		return nil
	}
	if kind := kindOf(a); kind != "" {
		return fmt.Errorf("check address %s: %w: %s network", a, ErrRefused, kind)
	}
	return nil
}

func (p Policy) allowed(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, n := range p.AllowNetworks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func kindOf(a netip.Addr) string {
	for _, r := range refused {
		if r.net.Contains(a) {
			return r.name
		}
	}
	if a.Is4() || globalV6.Contains(a) {
		return ""
	}
	for _, k := range kindsV6 {
		if k.net.Contains(a) {
			return k.name
		}
	}
	return "reserved"
}

// CheckURL tells what is wrong with a target before anything is sent: scheme,
// user info, fragment, and addresses written as numbers. Names are checked
// when they are dialed, every time, because their addresses change.
func (p Policy) CheckURL(raw string) error {
	if len(raw) > maxURL {
		return fmt.Errorf("must be at most %d bytes", maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return errors.New("must be an absolute URL such as https://partner.example/hooks")
	}
	if u.User != nil {
		return errors.New("must not contain a user name or password; use headers")
	}
	if u.Fragment != "" {
		return errors.New("must not contain a fragment")
	}
	addr, lit := literal(u.Hostname())
	if lit {
		if err := p.Check(addr); err != nil {
			return fmt.Errorf("must not be %s in a %s network, unless gateway.webhooks.allowNetworks contains it",
				addr.Unmap(), kindOf(addr.Unmap().WithZone("")))
		}
	}
	switch u.Scheme {
	case "https":
		return nil
	case "http":
		if p.AllowHTTP || lit && p.allowed(addr) || !lit && len(p.AllowNetworks) > 0 {
			return nil
		}
		return errors.New("must use https; plain http needs gateway.webhooks.allowHTTP or an allowed network")
	}
	return fmt.Errorf("must have the scheme https, not %q", u.Scheme)
}

// literal reads hosts that are certainly one known address: numbers and
// localhost. Other spellings of numbers (octal, hexadecimal) are left to the
// resolver and therefore to the check at dial time.
func literal(host string) (netip.Addr, bool) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	a, err := netip.ParseAddr(host)
	return a, err == nil
}

type plainKey struct{}

// Client returns an HTTP client for many unrelated targets. Redirects are
// handed back as answers, proxies from the environment are ignored, and the
// address of every single connection is checked by the policy. The caller
// bounds each request by its context.
func Client(p Policy, perHost int) *http.Client {
	d := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	d.ControlContext = func(ctx context.Context, _, address string, _ syscall.RawConn) error {
		return p.control(ctx, address)
	}
	t := &http.Transport{
		DialContext:            d.DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		MaxIdleConns:           1024,        // enough for busy endpoints; idle ones dial again
		MaxIdleConnsPerHost:    8 * perHost, // a partner may have several endpoints on one host
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true, // a compressed answer could not bomb us, and we keep 1 KiB only
		ForceAttemptHTTP2:      true,
	}
	return &http.Client{
		Transport:     plainMarker{t},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// plainMarker tells the dialer which connections will carry plain HTTP. The
// transport keeps context values on a dial and pools connections by scheme, so
// a connection dialed for https is never used for http.
type plainMarker struct{ next *http.Transport }

func (m plainMarker) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" {
		r = r.WithContext(context.WithValue(r.Context(), plainKey{}, true))
	}
	return m.next.RoundTrip(r)
}

// CloseIdleConnections lets http.Client.CloseIdleConnections work.
func (m plainMarker) CloseIdleConnections() { m.next.CloseIdleConnections() }

func (p Policy) control(ctx context.Context, address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("check address %q: %w: not an IP address", address, ErrRefused)
	}
	if err := p.Check(ap.Addr()); err != nil {
		return err
	}
	plain, _ := ctx.Value(plainKey{}).(bool)
	if plain && !p.AllowHTTP && !p.allowed(ap.Addr()) {
		return fmt.Errorf("check address %s: %w: plain http needs an allowed network", ap.Addr(), ErrRefused)
	}
	return nil
}
