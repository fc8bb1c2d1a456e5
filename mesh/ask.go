package mesh

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/mesh/transfer"
)

// All that crosses a link is named wl.<to>.<from>.: it names the pair, so that a
// link's allow list lets no third site in. Questions come on ask.<subject> below
// that, their answers on ans.<token>, events and acknowledgements by package
// transfer. Nothing else of core NATS crosses.

// linkQuestion asks the other site how it is.
const linkQuestion = "link"

// openSubjects are the local subjects another site may ask on.
var openSubjects = []string{"weft.trace.find", "weft.trace.recent"}

// askSubject is the subject of questions to a site from another, without the question.
func askSubject(to, from string) string { return transfer.Inbound(to, from) + "ask" }

// ansSubject is the subject of answers to a site from another, without the token.
func ansSubject(to, from string) string { return transfer.Inbound(to, from) + "ans" }

// Sites are the linked sites, reachable or not.
func (n *Node) Sites() []string {
	links := n.links.all()
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Name
	}
	return names
}

// Ask sends a question to a linked site and returns its answer; it gives up
// when ctx ends, and at once while the link is down. The other site answers on
// the subjects it has opened.
func (n *Node) Ask(ctx context.Context, site, subject string, data []byte) ([]byte, error) {
	l := n.links.by(site)
	if l == nil {
		return nil, fmt.Errorf("ask site %s: not linked", site)
	}
	if subject != linkQuestion && !l.isUp() { // that question finds out whether it is up
		return nil, fmt.Errorf("ask site %s: the link is down", site)
	}
	nc := n.bus.Conn()
	// One subscription per question: the token in it stands for the answer's place.
	inbox := ansSubject(n.Site, site) + "." + strings.TrimPrefix(nc.NewRespInbox(), "_INBOX.")
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask site %s: %w", site, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest(askSubject(site, n.Site)+"."+subject, inbox, data); err != nil {
		return nil, fmt.Errorf("ask site %s: %w", site, err)
	}
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask site %s: %w", site, err)
	}
	if m.Header.Get("Status") == "503" {
		return nil, fmt.Errorf("ask site %s: %w", site, nats.ErrNoResponders)
	}
	return m.Data, nil
}
