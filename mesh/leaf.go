package mesh

import (
	"net/url"

	"weft.dev/weft/mesh/transfer"
)

// linkUsers writes the linked sites, which may connect as links only.
func (n *Node) linkUsers(w func(string, ...any)) {
	for _, l := range n.cfg.Links.Sites {
		// No other site is mentioned: a link carries what names its pair, and nothing else.
		send, receive := transfer.Inbound(n.Site, l.Name)+">", transfer.Inbound(l.Name, n.Site)+">"
		w("      {user: %q, password: %q, allowed_connection_types: [LEAFNODE], permissions: {publish: {allow: [%q]}, subscribe: {allow: [%q]}}}",
			linkUser(l.Name), l.Secret.Reveal(), send, receive)
	}
}

// linkUser is the name under which a site dials another.
func linkUser(site string) string { return "link-" + site }

// leafnodes writes the listener for links and the links this site dials.
func (n *Node) leafnodes(w func(string, ...any)) {
	if len(n.cfg.Links.Sites) == 0 && n.cfg.Links.Listen == "" {
		return
	}
	w("leafnodes {\n  no_advertise: true\n  reconnect: \"1s\"\n  dial_timeout: \"3s\"")
	w("  compression: {mode: s2_auto, rtt_thresholds: [10ms, 50ms, 100ms]}")
	if n.cfg.Links.Listen != "" {
		w("  listen: %q", natsAddr(n.cfg.Links.Listen))
	}
	w("  remotes: [")
	for _, l := range n.links {
		if !l.dials() {
			continue
		}
		w("    {urls: [%s], account: %s, isolate_leafnode_interest: true, request_isolation: true, ignore_discovered_servers: true}",
			quoted(n.remoteURLs(l.Link)), account)
	}
	w("  ]\n}")
}

// remoteURLs are a link's addresses with the credentials in them.
func (n *Node) remoteURLs(l Link) []string {
	out := make([]string, 0, len(l.URLs))
	for _, raw := range l.URLs {
		u, err := url.Parse(raw)
		if err != nil {
			continue // Validate has refused it
		}
		u.Scheme = "nats-leaf"
		u.User = url.UserPassword(linkUser(n.Site), l.Secret.Reveal())
		out = append(out, u.String())
	}
	return out
}
