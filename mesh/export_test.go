package mesh

import (
	"context"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
)

// Restrict lets a linked site do only what is given, as an operator of a server
// between the sites may have it by mistake.
func (n *Node) Restrict(site string, perms *server.Permissions) error {
	opts, err := n.options()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(opts.Users, func(u *server.User) bool { return u.Username == linkUser(site) })
	opts.Users[i].Permissions = perms
	if err := n.server().ReloadOptions(opts); err != nil {
		return err
	}
	n.dropLeaf(site) // a connection that stands keeps its permissions
	return nil
}

// Certificates returns what looks at a node's certificates now and then.
func (n *Node) Certificates() func(context.Context) { return newCertificates(n).look }

// Trust switches the guards of a node's links against dead connections and wrong
// clocks off, to show what they are for.
func (n *Node) Trust() {
	for _, l := range n.links.all() {
		l.mu.Lock()
		l.state.trusting, l.state.offset = true, 0
		l.mu.Unlock()
	}
}

// Unanswered is how many questions to a linked site have got no answer, since the
// last one that did or the connection was closed for it.
func (n *Node) Unanswered(site string) int {
	for _, l := range n.links.all() {
		if l.Name == site {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.state.deaf
		}
	}
	return 0
}

// Room wants space for growing on the disk of a directory.
var Room = room
