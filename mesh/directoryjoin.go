package mesh

import (
	"bufio"
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"weft.dev/weft/internal/conf"
)

// A new site dials an address of the mesh as joinUser, whose password follows
// from the mesh's secret, and asks one question on joinSubject: it carries the
// site's signed entry. The answer holds the directory. All joiners have one user,
// so it is sealed for the one that asked. That user can do nothing else.
const (
	joinUser    = "weft-join"
	joinSubject = "wl.join.ask"
	joinAnswers = "wl.join.answer." // and a token
	// joinerName begins the name of a connection of joinUser; no site has it.
	joinerName = "+join"
	// joinTimeout bounds one attempt to join.
	joinTimeout = 5 * time.Second
	// directoryVersion is that of the questions and answers of the directory.
	directoryVersion = 1
)

// joinQuestion is what a new site asks.
type joinQuestion struct {
	Version int    `json:"version"`
	Weft    string `json:"weft"`
	At      int64  `json:"at"` // the sender's clock, Unix ms
	Record  record `json:"record"`
	Key     string `json:"key"` // curve key that the answer is for
}

// sealedAnswer is what it is answered.
type sealedAnswer struct {
	Key string `json:"key"` // curve key of who answers
	Box []byte `json:"box"` // a joinAnswer
}

// joinAnswer is in the box.
type joinAnswer struct {
	// Proof shows that who answers knows the secret of the mesh.
	Proof   string `json:"proof"`
	Problem string `json:"problem,omitempty"`
	// Starting: not yet; ask again.
	Starting bool `json:"starting,omitempty"`
	exchange
}

// joinUsers writes the user of sites that are new.
func (n *Node) joinUsers(w func(string, ...any)) {
	d := n.cfg.Links.Directory
	if !d.On() {
		return
	}
	w("      {user: %s, password: %q, allowed_connection_types: [LEAFNODE, LEAFNODE_WS], permissions: {publish: {allow: [%q]}, subscribe: {allow: [%q]}}}",
		joinUser, d.derive("join"), joinSubject, joinAnswers+"*")
}

// welcome answers sites that join until ctx ends.
func (d *directory) welcome(ctx context.Context) (*nats.Subscription, error) {
	return d.node.bus.Conn().QueueSubscribe(joinSubject, joinUser, func(m *nats.Msg) {
		if !strings.HasPrefix(m.Reply, joinAnswers) {
			d.refused.count("format")
			return
		}
		d.offer(func(ctx context.Context) { d.admitJoiner(ctx, m) })
	})
}

// admitJoiner takes a new site in and tells it who is there, or why it is not
// taken in.
func (d *directory) admitJoiner(ctx context.Context, m *nats.Msg) {
	n := d.node
	var q joinQuestion
	if err := json.Unmarshal(m.Data, &q); err != nil {
		d.refused.count("format")
		return
	}
	answer := joinAnswer{Proof: d.cfg.derive("answer " + q.Key), exchange: exchange{Version: directoryVersion, From: n.Site, At: n.Now().UnixMilli()}}
	name, err := d.consider(ctx, q)
	var no *rejection
	switch {
	case errors.As(err, &no):
		d.refused.count(no.reason)
		answer.Problem = no.text
		n.refuse(name, "joins: "+no.text)
	case err != nil: // the bucket does not answer
		answer.Starting = true
		n.Log.WarnContext(ctx, "site not taken into the directory yet", "site", name, "err", err)
	default:
		d.apply(ctx) // it dials as soon as it has the answer
		answer.exchange = d.outgoing()
		answer.Starting = !d.complete()
	}
	data, err := q.seal(answer)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		n.Log.WarnContext(ctx, "joining site not answered", "site", name, "err", err)
	}
}

// consider takes a joining site in, or returns why not.
func (d *directory) consider(ctx context.Context, q joinQuestion) (name string, err error) {
	n := d.node
	if q.Version != directoryVersion {
		return "", reject("version", "the site that joins runs weft %.32s with version %d of the directory, site %s runs %s with version %d: bring both to one version of weft", q.Weft, q.Version, n.Site, n.Version, directoryVersion)
	}
	e, err := q.Record.open()
	if err != nil {
		return "", err
	}
	if apart := n.Now().Sub(time.UnixMilli(q.At)).Abs(); apart > maxSkew {
		return e.Site, reject("clock", "the clocks of site %s and site %s are %s apart: set both by NTP", e.Site, n.Site, apart.Round(time.Second))
	}
	if d.cfg.Role == roleEdge {
		return e.Site, reject("role", "mesh.links.directory.join: site %s is an edge: join by a core site", n.Site)
	}
	if own, _ := publicKey(n.cfg.Links.NKey); e.Site == n.Site && e.PublicKey == own {
		return e.Site, nil // a node of this site, or this one itself: it sees that by the answer
	}
	if e.Site == n.Site {
		return e.Site, reject("name", "site: a site that is named %q joins at a site of the same name: give each its own", e.Site)
	}
	return e.Site, d.admit(ctx, q.Record)
}

// seal encrypts an answer for whoever asked.
func (q joinQuestion) seal(answer joinAnswer) ([]byte, error) {
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	pair, err := nkeys.CreateCurveKeys()
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	var out sealedAnswer
	if out.Key, err = pair.PublicKey(); err != nil {
		return nil, err
	}
	if out.Box, err = pair.Seal(raw, q.Key); err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// ask joins by one address: it returns what the site there answers.
func (d *directory) ask(ctx context.Context, key, raw string) (joinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	u, err := url.Parse(raw)
	if err != nil {
		return joinAnswer{}, conf.Field(key, "want a URL")
	}
	a := attempt{node: d.node, key: key, url: u, joining: true, link: Link{Proxy: d.cfg.Proxy}}
	s, err := a.open(ctx)
	if err != nil {
		return joinAnswer{}, err
	}
	defer func() { _ = s.Close() }() // all is said
	a.link.Name = s.hello.site()
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		return joinAnswer{}, err
	}
	defer curve.Wipe()
	q := joinQuestion{Version: directoryVersion, Weft: d.node.Version, At: d.node.Now().UnixMilli()}
	if q.Key, err = curve.PublicKey(); err != nil {
		return joinAnswer{}, err
	}
	e, err := d.own(a.link.Name)
	if err == nil {
		q.Record, err = e.sign(d.node.cfg.Links.NKey)
	}
	if err != nil {
		return joinAnswer{}, err
	}
	data, err := json.Marshal(q)
	if err != nil {
		return joinAnswer{}, err
	}
	data, err = a.exchangeOnce(s, d.cfg.derive("join"), joinAnswers+q.Key, data)
	if err != nil {
		return joinAnswer{}, err
	}
	return d.unseal(a, q, curve, data)
}

// unseal opens an answer and holds it against the secret of the mesh.
func (d *directory) unseal(a attempt, q joinQuestion, curve nkeys.KeyPair, data []byte) (answer joinAnswer, err error) {
	var sealed sealedAnswer
	if err = json.Unmarshal(data, &sealed); err == nil {
		if data, err = curve.Open(sealed.Box, sealed.Key); err == nil {
			err = json.Unmarshal(data, &answer)
		}
	}
	switch {
	case err != nil:
		return answer, conf.Field(a.key, fmt.Sprintf("site %s gives an answer that cannot be read: %v", a.link.Name, err))
	case !hmac.Equal([]byte(answer.Proof), []byte(d.cfg.derive("answer "+q.Key))):
		return answer, conf.Field(a.key, fmt.Sprintf("site %s does not know the secret of the mesh", a.link.Name))
	case answer.Problem != "":
		return answer, conf.Field(a.key, fmt.Sprintf("site %s does not take this site in: %s", a.link.Name, answer.Problem))
	case answer.Version != directoryVersion:
		return answer, conf.Field(a.key, fmt.Sprintf("site %s has version %d of the directory, this site %d: bring both to one version of weft", a.link.Name, answer.Version, directoryVersion))
	case answer.From != a.link.Name:
		return answer, conf.Field(a.key, fmt.Sprintf("site %q answers for site %q", a.link.Name, answer.From))
	}
	return answer, nil
}

// exchangeOnce asks one question on a link's connection and returns the answer. It
// speaks the protocol of leaf nodes, as far as that is needed: CONNECT, LS+ for
// interest, and LMSG for a message, with + before the place of the answer and the
// queue group that is asked.
func (a attempt) exchangeOnce(s dialogue, password, inbox string, question []byte) ([]byte, error) {
	who, err := json.Marshal(map[string]any{"name": joinerName + ":" + a.node.Site + ":" + a.node.Node, "user": joinUser, "pass": password})
	if err != nil {
		return nil, err
	}
	// The question waits until somebody there can answer: just after a start nobody can.
	ask := fmt.Sprintf("LMSG %s + %s %s %d\r\n%s\r\n", joinSubject, inbox, joinUser, len(question), question)
	if _, err := fmt.Fprintf(s, "CONNECT %s\r\nLS+ %s\r\n", who, inbox); err != nil {
		return nil, a.refused(err)
	}
	for {
		line, err := s.in.ReadString('\n')
		op, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		reply := ""
		switch {
		case strings.Contains(line, "Authorization Violation"):
			return nil, conf.Field("mesh.links.directory.secret", fmt.Sprintf("%s refuses it: the secret there is another, or it has no mesh.links.directory", a.who()))
		case strings.HasPrefix(op, "-ERR"):
			return nil, conf.Field(a.key, fmt.Sprintf("%s answers %q", a.who(), strings.TrimSpace(line)))
		case err != nil:
			return nil, &unreachable{conf.Field(a.key, fmt.Sprintf("%s does not answer: %v", a.who(), err))}
		case op == "LMSG":
			return payload(s.in, args)
		case op == "LS+" && strings.HasPrefix(args, joinSubject+" "):
			reply, ask = ask, ""
		case op == "PING":
			reply = "PONG\r\n"
		}
		if reply != "" {
			if _, err := io.WriteString(s, reply); err != nil {
				return nil, a.refused(err)
			}
		}
	}
}

// payload reads the message that follows the arguments of LMSG: subject and size.
func payload(in *bufio.Reader, args string) ([]byte, error) {
	fields := strings.Fields(args)
	if len(fields) < 2 {
		return nil, fmt.Errorf("read an answer: want a subject and a size, have %.40q", args)
	}
	size, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil || size < 0 || size > maxPayload {
		return nil, fmt.Errorf("read an answer of %.40q bytes: at most %d", fields[len(fields)-1], maxPayload)
	}
	data := make([]byte, size)
	_, err = io.ReadFull(in, data)
	return data, err
}
