package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/run"
)

const (
	// diagnoseAfter is how long a link is down before its addresses are tried by
	// hand; diagnoseEvery, the time between two tries.
	diagnoseAfter = 2 * time.Second
	diagnoseEvery = 10 * time.Second
	// repeatAfter is when the same refusal is logged again.
	repeatAfter = time.Minute
	// refusalLasts is how long a refusal is the reason: it comes again with each try.
	refusalLasts = 2 * diagnoseEvery
)

// refusals are why links are not made, by site. A site that is not configured
// has an entry only in logged.
type refusals struct {
	mu     sync.Mutex
	reason map[string]refusal   // guarded by mu; by site
	logged map[string]time.Time // guarded by mu; by text; at most maxLogged
}

// refusal is why a link was not made when it was last tried.
type refusal struct {
	why     string
	at      time.Time
	setting bool // a setting is wrong; else the site is not reached
}

// maxLogged bounds the texts: names come from whoever dials.
const maxLogged = 64

// refuse notes why the link to a site is not made, and logs it now and then.
func (n *Node) refuse(site, why string) {
	r := &n.refusals
	n.note(site, refusal{why, time.Now(), true})
	r.mu.Lock()
	if r.logged == nil {
		r.logged = map[string]time.Time{}
	}
	again := time.Since(r.logged[why]) > repeatAfter
	if again {
		if len(r.logged) >= maxLogged {
			clear(r.logged)
		}
		r.logged[why] = time.Now()
	}
	r.mu.Unlock()
	if again {
		n.Log.Error("link refused", "site", site, "err", why)
	}
}

// blame notes that a site is not reached.
func (n *Node) blame(site, why string) { n.note(site, refusal{why, time.Now(), false}) }

// note notes why the link to a site is not made, if it is configured.
func (n *Node) note(site string, why refusal) {
	for _, l := range n.links.all() {
		if l.Name != site {
			continue
		}
		r := &n.refusals
		r.mu.Lock()
		if r.reason == nil {
			r.reason = map[string]refusal{}
		}
		r.reason[site] = why
		r.mu.Unlock()
	}
}

// refusal is why the link to a site is not made, if that is known.
func (n *Node) refusal(site string) string { return n.reason(site).why }

func (n *Node) reason(site string) refusal {
	n.refusals.mu.Lock()
	defer n.refusals.mu.Unlock()
	if r := n.refusals.reason[site]; time.Since(r.at) < refusalLasts {
		return r
	}
	return refusal{}
}

// admit forgets why a link was not made.
func (n *Node) admit(site string) {
	n.refusals.mu.Lock()
	defer n.refusals.mu.Unlock()
	delete(n.refusals.reason, site)
}

// diagnose finds out, while a link is down, which setting keeps it from being made.
func (l *link) diagnose(ctx context.Context) {
	for wait := diagnoseAfter; ; {
		run.Pause(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		wait = diagnoseAfter
		if gone, _ := l.away(); gone < diagnoseAfter {
			continue
		}
		l.node.strangers()
		if !l.dials() {
			continue
		}
		wait = diagnoseEvery
		err := l.probe(ctx)
		if gone, _ := l.away(); ctx.Err() != nil || gone == 0 {
			continue
		}
		if err == nil && l.PublicKey != "" {
			err = conf.Field("site", fmt.Sprintf("site %s lets this site in but does not hear it: is %s its name for this one?", l.Name, l.node.Site))
		}
		var away *unreachable
		switch {
		case err == nil:
			l.node.admit(l.Name)
		case errors.As(err, &away): // no setting is wrong, and the link is logged as down
			l.node.blame(l.Name, err.Error())
		default:
			l.node.refuse(l.Name, err.Error())
		}
	}
}

// strangers closes the connections of sites that the NKey of another let in.
// They could do nothing, for the subjects of a link are those of its pair.
func (n *Node) strangers() {
	s := n.server()
	if s == nil {
		return
	}
	leafs, err := s.Leafz(nil)
	if err != nil {
		return // the server stops
	}
	known := map[string]bool{joinerName: true}
	for _, l := range n.links.all() {
		known[l.Name] = true
	}
	for _, l := range leafs.Leafs {
		site, _, _ := strings.Cut(l.Name, ":")
		if site == "" || known[site] || l.Account != account {
			continue // "": it has not said who it is
		}
		n.refuse(site, n.stranger(site, "with the NKey of another"))
		_ = s.DisconnectClientByID(l.ID) // it may be gone already
	}
}

func (n *Node) stranger(site, how string) string {
	if site == n.Site {
		return fmt.Sprintf("site: a site that is named %q like this one dials %s: give each its own name", site, how)
	}
	return fmt.Sprintf("mesh.links.sites: site %q dials %s: it is not there", site, how)
}

var (
	deniedUser = regexp.MustCompile(`authentication error - User "link-([^"]*)"`)
	deniedKey  = regexp.MustCompile(`authentication error - Nkey "([^"]*)"`)
	deniedJoin = `authentication error - User "` + joinUser + `"`
	deniedTLS  = regexp.MustCompile(`(?:TLS leafnode handshake error|TLS handshake error from \S+): (.*)$`)
)

// explain says in the words of the configuration what a line of the server's log
// says of a link that was not let in. False: the line is about something else.
func (n *Node) explain(line string) bool {
	if m := deniedUser.FindStringSubmatch(line); m != nil {
		n.refuse(m[1], n.deniedUser(m[1]))
		return true
	}
	if strings.Contains(line, deniedJoin) {
		n.refuse("", n.deniedJoiner())
		return true
	}
	if m := deniedKey.FindStringSubmatch(line); m != nil {
		for _, l := range n.links.all() {
			if l.PublicKey == m[1] {
				n.refuse(l.Name, l.key("publicKey")+": whoever dials has not the seed to it")
				return true
			}
		}
		if n.directory == nil || !n.directory.expected(m[1]) {
			n.refuse("", n.deniedStranger(m[1]))
		}
		return true
	}
	if m := deniedTLS.FindStringSubmatch(line); m != nil {
		if !n.dialled(line) { // else the probe says more
			n.refuse("", deniedCertificate(m[1]))
		}
		return true
	}
	// A probe ends so, and a link whose probe says more.
	return strings.Contains(line, sentAway) || strings.Contains(line, "Leafnode Error 'Authorization Violation'")
}

// deniedJoiner explains that a site that joins is not let in.
func (n *Node) deniedJoiner() string {
	if n.directory == nil {
		return "mesh.links.directory.secret: a site joins, but this one has no directory"
	}
	return "mesh.links.directory.secret: a site joins with another secret"
}

// deniedStranger explains that nobody has the NKey of a site that dials.
func (n *Node) deniedStranger(key string) string {
	if n.directory != nil {
		b, _ := n.directory.snapshot()
		if t, ok := b.gone[key]; ok {
			return fmt.Sprintf("site %q dials, which was forgotten at site %s (weft mesh forget)", t.Site, t.By)
		}
	}
	return fmt.Sprintf("mesh.links.sites: a site dials with NKey %.56s: no site there has it as publicKey", key)
}

// dialled tells whether a line is about a connection that this site made.
func (n *Node) dialled(line string) bool {
	addr, _, _ := strings.Cut(line, " ")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	for _, l := range n.links.all() {
		for _, raw := range l.URLs {
			if u, err := url.Parse(raw); err == nil && strings.HasSuffix(dialAddr(u), ":"+port) {
				return true
			}
		}
	}
	return false
}

func (n *Node) deniedUser(site string) string {
	for _, l := range n.links.all() {
		switch {
		case l.Name != site:
		case l.PublicKey != "":
			return l.key("publicKey") + ": the site dials with a secret: give it links.nkey, and this site's publicKey"
		default:
			return l.key("secret") + ": the site dials with another secret"
		}
	}
	if len(site) > 63 {
		site = site[:63]
	}
	return n.stranger(site, "this one")
}

// deniedCertificate explains an error of TLS with a site that dials: its name
// is not known yet.
func deniedCertificate(text string) string {
	switch {
	case strings.Contains(text, "remote error"):
		return "mesh.tls.cert: a site that dials does not accept this site's certificate: " + text
	case strings.Contains(text, "didn't provide a certificate"):
		return "mesh.tls: a site dials without a certificate: it needs mesh.tls too"
	case strings.Contains(text, "verify"), strings.Contains(text, "x509"):
		return "mesh.tls.ca: a site dials with a certificate of another authority, or one that expired: " + text
	case strings.Contains(text, "first record does not look like"):
		return "mesh.tls: a site dials without TLS: it should write tls:// or wss://"
	}
	return "mesh.tls: a site that dials and this one do not agree: " + text
}
