package mesh

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/mesh/transfer"
)

// Users and accounts of the server. Everything of Weft lives in one account;
// system events have their own, which no link reaches.
const (
	account    = "WEFT"
	sysAccount = "SYS"
	nodeUser   = "weft-node"
	anonymous  = "weft-anonymous"
)

// maxPayload is the largest event and room for its headers and the server's own.
const maxPayload = event.MaxData + event.MaxHeaders + 48<<10

// keys are passwords that live as long as the process.
type keys struct{ node, anonymous string }

func newKeys() keys { return keys{node: rand.Text(), anonymous: rand.Text()} }

// probePorts finds a port in use before the server does, also by the other
// listener, and names its key.
func (n *Node) probePorts(ctx context.Context) error {
	for _, l := range []struct{ key, addr string }{
		{"mesh.client.listen", n.cfg.Client.Listen},
		{"mesh.cluster.listen", n.cfg.Cluster.Listen},
		{"mesh.links.listen", n.cfg.Links.Listen},
	} {
		if l.addr == "" {
			continue
		}
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
		if err != nil {
			return fmt.Errorf("listen: %w", conf.Field(l.key, err.Error()))
		}
		defer ln.Close()
	}
	return nil
}

// settings is the server's configuration. Text is the one form in which every
// setting can later be reloaded.
func (n *Node) settings(k keys) string {
	b := new(strings.Builder)
	w := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	// The server takes this for the name of its cluster too, and links none of the
	// same name: nodes of two sites may share theirs.
	w("server_name: %q", n.Site+":"+n.Node)
	switch {
	case n.cfg.Client.Listen != "":
		w("listen: %q", natsAddr(n.cfg.Client.Listen))
	case n.cfg.Clustered():
		w(`listen: "127.0.0.1:-1"`) // without this listener the server makes no routes; users() admits nobody to it
	}
	w("max_payload: %d", maxPayload+n.growth.room())
	w(`ping_interval: "10s"
ping_max: 2`)
	w("jetstream {\n  store_dir: %q\n  domain: %q", filepath.Join(n.Dir, storeDir), n.Site)
	if n.cfg.Replicas() == 1 {
		w("  sync_interval: always") // what only one node has must be on its disk
	}
	// Room for Weft's own streams beside the events.
	w("  max_memory_store: 256MiB\n  max_file_store: %d\n}", n.cfg.Events.MaxBytes.Bytes()*2+(10<<30))
	w("feature_flags { js_snapshot_sources: true, js_api_reply_v2: true, js_ack_fc_v2: true }")
	w("system_account: %s", sysAccount)
	w("accounts {\n  %s { users: [{user: %s, password: %q, allowed_connection_types: [IN_PROCESS]}] }", sysAccount, systemUser, k.node)
	w("  %s {\n    jetstream: enabled\n    users: [", account)
	n.users(w, k)
	w("    ]\n  }\n}")
	if len(n.cfg.Client.Users) == 0 {
		w("no_auth_user: %s", anonymous)
	}
	n.leafnodes(w)
	n.cluster(w)
	return b.String()
}

// cluster writes the routes to the other nodes of the site. The server wants one
// at its start, so a node that is alone names itself.
func (n *Node) cluster(w func(string, ...any)) {
	if !n.cfg.Clustered() {
		return
	}
	n.mu.Lock()
	routes := append([]string{n.cfg.Cluster.Listen}, n.site.routes...)
	slices.Sort(routes) // a reload sorts the list in place while the server's connections read it
	n.mu.Unlock()
	password := n.routePassword()
	for i, r := range routes {
		routes[i] = (&url.URL{Scheme: "nats-route", User: url.UserPassword(routeUser, password), Host: r}).String()
	}
	w("cluster {\n  name: %q\n  listen: %q\n  no_advertise: true\n  pool_size: 3\n  connect_retries: 120", n.Site, natsAddr(n.cfg.Cluster.Listen))
	w("  authorization {user: %s, password: %q, timeout: 3}", routeUser, password)
	if n.cfg.TLS.On() {
		w("  tls %s", n.cfg.TLS.Block())
	}
	w("  routes: [%s]\n}", quoted(routes))
}

// routeUser is the name under which nodes of a site connect to each other.
const routeUser = "weft-route"

// routePassword follows from the cluster's secret or else from the site's key:
// whoever may hear gossip may connect.
func (n *Node) routePassword() string {
	secret := n.cfg.Cluster.Secret
	if secret == "" {
		secret = n.cfg.Gossip.Key
	}
	mac := hmac.New(sha256.New, []byte(secret.Reveal()))
	mac.Write([]byte("weft routes of site " + n.Site))
	return hex.EncodeToString(mac.Sum(nil))
}

// users writes who may connect: the node itself, clients, and the linked sites,
// each only by the kind of connection meant for it.
func (n *Node) users(w func(string, ...any), k keys) {
	w("      {user: %s, password: %q, allowed_connection_types: [IN_PROCESS]}", nodeUser, k.node)
	if len(n.cfg.Client.Users) == 0 {
		by := "IN_PROCESS"
		if n.cfg.Client.Listen != "" && !n.growth.shut() {
			by = "STANDARD, IN_PROCESS"
		}
		w("      {user: %s, password: %q, allowed_connection_types: [%s]%s}", anonymous, k.anonymous, by, permissions(nil, nil))
	}
	for _, u := range n.growth.admitted(n.cfg.Client.Users) {
		w("      {user: %q, password: %q, allowed_connection_types: [STANDARD]%s}", u.Name, u.Password.Reveal(), permissions(u.Publish, u.Subscribe))
	}
	n.linkUsers(w)
}

// permissions are a client's: what it is allowed, but never what only the node
// itself writes.
func permissions(publish, subscribe []string) string {
	return fmt.Sprintf(", permissions: {publish: {allow: [%s], deny: [%s]}, subscribe: {allow: [%s]}}",
		quoted(publish), quoted(ownSubjects), quoted(subscribe))
}

// ownSubjects are written by the node alone: events of other sites, positions,
// what crosses links, and the directory of sites.
var ownSubjects = []string{
	transfer.Staged + ">", "weft.off.>", "wl.>",
	"$KV." + sitesBucket + ".>", "$JS.*.API.$KV." + sitesBucket + ".>",
}

func quoted(list []string) string {
	if len(list) == 0 {
		list = []string{">"}
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strconv.Quote(s)
	}
	return strings.Join(out, ", ")
}

// natsAddr writes port 0 as the server wants a chosen port: -1.
func natsAddr(addr string) string {
	if host, ok := strings.CutSuffix(addr, ":0"); ok {
		return host + ":-1"
	}
	return addr
}
