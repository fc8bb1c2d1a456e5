package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/mesh/gossip"
)

// systemUser is the node itself in the server's system account.
const systemUser = "weft-system"

var (
	errAlive   = errors.New("the node is running: stop it first")
	errUnknown = errors.New("no such node")
)

// Remove takes a node that is gone for good out of the site's cluster: what it
// kept is copied to another node, and it no longer counts in votes. It is never
// done by itself, since a node that is only cut off would shrink the cluster.
func (n *Node) Remove(ctx context.Context, name string) error {
	if !n.cfg.Clustered() {
		return fmt.Errorf("remove node %s: %w: this site has one node", name, errUnknown)
	}
	if slices.ContainsFunc(n.Members(), func(m gossip.Member) bool { return m.Node == name }) {
		return fmt.Errorf("remove node %s: %w", name, errAlive)
	}
	s := n.server()
	if s == nil {
		return errNotReady
	}
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.Name("weft remove"), nats.UserInfo(systemUser, n.keys.node))
	if err != nil {
		return fmt.Errorf("remove node %s: %w", name, err)
	}
	defer nc.Close()
	req, err := json.Marshal(map[string]string{"peer": n.Site + ":" + name})
	if err != nil {
		return fmt.Errorf("remove node %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$JS.API.SERVER.REMOVE", req)
	if err != nil {
		return fmt.Errorf("remove node %s: the cluster has no leader to do it: %w", name, err)
	}
	var answer struct {
		Error *struct {
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("remove node %s: %w", name, err)
	}
	const notMember = 10044
	switch {
	case answer.Error == nil:
		n.Log.WarnContext(ctx, "node removed from the site", "node", name)
		return nil
	case answer.Error.ErrCode == notMember:
		return fmt.Errorf("remove node %s: %w", name, errUnknown)
	}
	return fmt.Errorf("remove node %s: %s", name, answer.Error.Description)
}

// serveRemove serves DELETE /api/mesh/nodes/{node}.
func (n *Node) serveRemove(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("node")
	err := conf.Name("node", name)
	if err == nil {
		err = n.Remove(r.Context(), name)
	} else {
		err = fmt.Errorf("%w: %w", errUnknown, err)
	}
	switch {
	case err == nil:
		httpd.WriteJSON(w, http.StatusOK, map[string]string{"removed": name})
	case errors.Is(err, errAlive):
		httpd.WriteProblem(w, httpd.Problem{Type: "conflict", Status: http.StatusConflict, Detail: err.Error()})
	case errors.Is(err, errUnknown):
		httpd.WriteProblem(w, httpd.Problem{Type: "not-found", Status: http.StatusNotFound, Detail: err.Error()})
	default:
		httpd.WriteProblem(w, httpd.Problem{Type: "unavailable", Status: http.StatusServiceUnavailable, Detail: err.Error()})
	}
}
