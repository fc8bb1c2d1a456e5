package app

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/sidecar"
)

const (
	sidecarWait = 300 * time.Millisecond // for the answers of the site's sidecars
	maxSidecars = 1000                   // answers read of one round
)

// sidecars asks the sidecars of the site how they are.
func (n *Node) sidecars(w http.ResponseWriter, _ *http.Request) {
	found := []sidecar.Presence{}
	nc := n.mesh.Bus().Conn()
	inbox := nc.NewInbox()
	answers := make(chan *nats.Msg, maxSidecars)
	sub, err := nc.ChanSubscribe(inbox, answers)
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }() // the connection may be closing
		err = nc.PublishRequest(sidecar.PresenceAsk, inbox, nil)
	}
	if err != nil {
		httpd.WriteProblem(w, httpd.ProblemOf(err))
		return
	}
	deadline := time.After(sidecarWait)
	for waiting := true; waiting && len(found) < maxSidecars; {
		select {
		case m := <-answers:
			var p sidecar.Presence
			if json.Unmarshal(m.Data, &p) == nil {
				found = append(found, p)
			}
		case <-deadline:
			waiting = false
		}
	}
	slices.SortFunc(found, func(a, b sidecar.Presence) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Instance, b.Instance))
	})
	httpd.WriteJSON(w, http.StatusOK, map[string]any{"sidecars": found})
}
