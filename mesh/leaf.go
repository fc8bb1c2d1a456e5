package mesh

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/mesh/transfer"
)

// linkUsers writes the linked sites, which may connect as links only.
func (n *Node) linkUsers(w func(string, ...any)) {
	for _, l := range n.links.all() {
		who := fmt.Sprintf("user: %q, password: %q", linkUser(l.Name), l.Secret.Reveal())
		if l.PublicKey != "" {
			who = "nkey: " + l.PublicKey
		}
		// No other site is mentioned: a link carries what names its pair, and nothing else.
		send, receive := transfer.Inbound(n.Site, l.Name)+">", transfer.Inbound(l.Name, n.Site)+">"
		w("      {%s, allowed_connection_types: [LEAFNODE, LEAFNODE_WS], permissions: {publish: {allow: [%q]}, subscribe: {allow: [%q]}}}",
			who, send, receive)
	}
	n.joinUsers(w)
}

// linkUser is the name under which a site dials another.
func linkUser(site string) string { return "link-" + site }

// compression is none on a short way and the fastest on a long one: what the
// server takes for long ways by default costs more than all else of a link. Each
// end compresses what it sends by its own setting.
const compression = "{mode: s2_auto, rtt_thresholds: [10ms, 1h, 1h]}"

// leafnodes writes the listeners for links and the links this site dials.
func (n *Node) leafnodes(w func(string, ...any)) {
	links := n.cfg.Links
	if len(links.Sites) == 0 && !links.Directory.On() && links.Listen == "" && links.WebSocket.Listen == "" {
		return
	}
	n.websocket(w)
	w("leafnodes {\n  no_advertise: true\n  reconnect: \"250ms\"\n  dial_timeout: \"3s\"")
	w("  compression: %s", compression)
	listen := links.Listen
	if listen == "" && links.WebSocket.Listen != "" {
		listen = "127.0.0.1:0" // the server takes links by WebSocket only beside its own kind
	}
	if listen != "" {
		w("  listen: %q", natsAddr(listen))
		if n.cfg.TLS.On() {
			w("  tls %s", n.cfg.TLS.Block())
		}
	}
	w("  remotes: [")
	for _, l := range n.links.all() {
		if !l.dials() {
			continue
		}
		w("    {urls: [%s], account: %s, isolate_leafnode_interest: true, request_isolation: true, ignore_discovered_servers: true, compression: %s%s}",
			quoted(n.remoteURLs(l.Link)), account, compression, n.remoteOptions(l.Link))
	}
	w("  ]\n}")
}

// websocket writes the listener for links over WebSocket. NATS clients reach it
// too, but no user of the server may connect that way.
func (n *Node) websocket(w func(string, ...any)) {
	addr := n.cfg.Links.WebSocket.Listen
	if addr == "" {
		return
	}
	security := "no_tls: true"
	if n.cfg.TLS.On() {
		security = "tls " + n.cfg.TLS.Block()
	}
	w("websocket {\n  listen: %q\n  %s\n}", natsAddr(addr), security)
}

// remoteOptions are what a remote has beside its addresses, each after a comma.
func (n *Node) remoteOptions(l Link) string {
	out := ""
	if l.PublicKey != "" {
		out += fmt.Sprintf(", nkey: %q", n.cfg.Links.NKey.Reveal())
	}
	if u, err := url.Parse(l.URLs[0]); err == nil && secure(u.Scheme) {
		block := fmt.Sprintf("{timeout: %d}", int(tlsTimeout.Seconds())) // the system's authorities
		if n.cfg.TLS.On() {
			block = n.cfg.TLS.Block()
		}
		out += ", tls: " + block
	}
	if l.Proxy != "" {
		out += ", proxy: " + proxyBlock(l.Proxy)
	}
	return out
}

func proxyBlock(proxy conf.Secret) string {
	u, err := url.Parse(proxy.Reveal())
	if err != nil {
		return "{}" // Validate has refused it
	}
	user := u.User
	u.User = nil
	if user == nil {
		return fmt.Sprintf("{url: %q}", u)
	}
	password, _ := user.Password()
	return fmt.Sprintf("{url: %q, username: %q, password: %q}", u, user.Username(), password)
}

// remoteURLs are a link's addresses, with the credentials in them if those are a secret.
func (n *Node) remoteURLs(l Link) []string {
	out := make([]string, 0, len(l.URLs))
	for _, raw := range l.URLs {
		u, err := url.Parse(raw)
		if err != nil {
			continue // Validate has refused it
		}
		u.Host = dialAddr(u)
		if u.Scheme == "nats" {
			u.Scheme = "nats-leaf"
		}
		if l.PublicKey == "" {
			u.User = url.UserPassword(linkUser(n.Site), l.Secret.Reveal())
		}
		out = append(out, u.String())
	}
	return out
}

// prepareLinks finds what stands in the way of links before the server does.
func (n *Node) prepareLinks(ctx context.Context) error {
	if err := n.cfg.TLS.Check(time.Now()); err != nil {
		return fmt.Errorf("read certificates: %w", err)
	}
	if err := n.identify(); err != nil {
		return err
	}
	addr := n.cfg.Links.WebSocket.Listen
	if addr == "" {
		return nil
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", conf.Field("mesh.links.websocket.listen", err.Error()))
	}
	return ln.Close()
}

// linkScheme is how other sites dial this one.
func (n *Node) linkScheme() string {
	if n.cfg.TLS.On() {
		return "tls://"
	}
	return "nats://"
}

// LinkWebSocketURL is where other sites dial this node over WebSocket; empty
// without that listener.
func (n *Node) LinkWebSocketURL() string {
	if s := n.server(); s != nil && n.cfg.Links.WebSocket.Listen != "" {
		return s.WebsocketURL()
	}
	return ""
}
