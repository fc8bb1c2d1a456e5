package mesh

import (
	"context"
	"fmt"
	"slices"
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
	names := make([]string, len(n.links))
	for i, l := range n.links {
		names[i] = l.Name
	}
	return names
}

// Ask sends a question to a linked site and returns its answer; it gives up
// when ctx ends, and at once while the link is down. The other site answers on
// the subjects it has opened.
func (n *Node) Ask(ctx context.Context, site, subject string, data []byte) ([]byte, error) {
	i := slices.IndexFunc(n.links, func(l *link) bool { return l.Name == site })
	if i < 0 {
		return nil, fmt.Errorf("ask site %s: not linked", site)
	}
	if subject != linkQuestion && !n.links[i].isUp() { // that question finds out whether it is up
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

// answer serves the questions of the linked sites, and the sessions they open,
// until ctx ends.
func (n *Node) answer(ctx context.Context) error {
	nc := n.bus.Conn()
	for _, l := range n.links {
		prefix := askSubject(n.Site, l.Name) + "."
		// By name of the peer: a subscription wider than the allow list does not cross the link.
		sub, err := nc.QueueSubscribe(prefix+">", "weft-ask", func(m *nats.Msg) {
			subject := strings.TrimPrefix(m.Subject, prefix)
			switch {
			case m.Reply == "":
			case subject == linkQuestion:
				l.answer(ctx, m)
			case subject == transfer.Question:
				l.exporter.Answer(ctx, m)
			case slices.Contains(openSubjects, subject):
				if err := nc.PublishRequest(subject, m.Reply, m.Data); err != nil {
					n.Log.WarnContext(ctx, "question of a site not passed on", "site", l.Name, "subject", subject, "err", err)
				}
			}
		})
		if err != nil {
			return fmt.Errorf("answer site %s: %w", l.Name, err)
		}
		defer l.exporter.Wait()
		defer func() { _ = sub.Unsubscribe() }()
	}
	<-ctx.Done()
	return nil
}
