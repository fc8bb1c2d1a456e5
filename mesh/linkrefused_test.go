package mesh_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/pki"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// journal is a log that a test reads.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// refusalCase is a refusal that a test stages: what site a, which is dialled, and
// site b, which dials it, must say.
type refusalCase struct {
	name         string
	edit         func(t *testing.T, a, b *mesh.Config)
	site         string // of the node that dials, if not b
	wantA, wantB string
}

// A site that is not let in learns, as does the one that refuses it, which
// setting is to blame, and the other links go on.
func TestLinkRefusals(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	tlsA, tlsB := ca.site(t, "a", "127.0.0.1"), ca.site(t, "b")
	elsewhere, foreign := ca.site(t, "a2", "a.example"), other.site(t, "b", "127.0.0.1")
	both := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(both, append(bytes.Clone(ca.Cert), other.Cert...), 0o600); err != nil {
		t.Fatal(err)
	}
	certs := func(a, b mesh.TLS) func(*testing.T, *mesh.Config, *mesh.Config) {
		return func(_ *testing.T, ca, cb *mesh.Config) { ca.TLS, cb.TLS = a, b }
	}
	keys := func(t *testing.T, a, b *mesh.Config) { t.Helper(); identities(t, a, b) }
	tests := []refusalCase{
		{
			"another secret", func(_ *testing.T, _, b *mesh.Config) { b.Links.Sites[0].Secret = "another-secret-of-16" }, "",
			"mesh.links.sites[0].secret: the site dials with another secret", "mesh.links.sites[0].secret: site a refuses it",
		},
		{
			"unknown site", func(_ *testing.T, a, _ *mesh.Config) { a.Links.Sites[0].Name = "x" }, "",
			`mesh.links.sites: site \"b\" dials this one: it is not there`, "or site b is not in its mesh.links.sites",
		},
		{"another nkey", func(t *testing.T, a, b *mesh.Config) {
			keys(t, a, b)
			seed, _, err := pki.NKey()
			if err != nil {
				t.Fatal(err)
			}
			b.Links.NKey = conf.Secret(seed)
		}, "", "no site there has it as publicKey", "mesh.links.nkey: site a does not know this site's NKey"},
		{"secret in place of the nkey", func(t *testing.T, a, b *mesh.Config) {
			keys(t, a, b)
			b.Links.Sites[0].PublicKey, b.Links.Sites[0].Secret = "", wefttest.Secret
		}, "", "mesh.links.sites[0].publicKey: the site dials with a secret", "mesh.links.sites[0].secret: site a refuses it"},
		{"another authority", certs(tlsA, foreign), "", "mesh.tls", "mesh.tls.ca: the certificate of site a is of another authority"},
		{
			"certificate of another authority", certs(tlsA, mesh.TLS{CA: both, Cert: foreign.Cert, Key: foreign.Key}), "",
			"mesh.tls.ca: a site dials with a certificate of another authority", "mesh.tls.cert: site a does not accept this site's certificate",
		},
		{
			"certificate for another address", certs(elsewhere, tlsB), "",
			"mesh.tls.cert: a site that dials does not accept this site's certificate", "mesh.links.sites[0].urls[0]: the certificate of site a is not for this address",
		},
		{"websocket with another secret", func(_ *testing.T, a, b *mesh.Config) {
			a.Links.WebSocket.Listen, b.Links.Sites[0].URLs = "127.0.0.1:0", []string{"websocket"}
			a.TLS, b.TLS = tlsA, tlsB
			b.Links.Sites[0].Secret = "another-secret-of-16"
		}, "", "mesh.links.sites[0].secret: the site dials with another secret", "mesh.links.sites[0].secret: site a refuses it"},
		{
			"no tls", func(_ *testing.T, a, b *mesh.Config) {
				a.TLS, b.Links.Sites[0].URLs = tlsA, []string{"plain"}
			}, "",
			"mesh.tls", "mesh.links.sites[0].urls[0]: site a wants TLS: write tls://",
		},
		{
			"tls at one end", func(_ *testing.T, _, b *mesh.Config) {
				b.TLS, b.Links.Sites[0].URLs = tlsB, []string{"secure"}
			}, "",
			"", "mesh.links.sites[0].urls[0]: site a has no TLS: set mesh.tls there",
		},
	}
	for _, tt := range append(tests, misnamed(keys)...) {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}

// misnamed are the refusals of sites whose names are not what the other expects.
func misnamed(keys func(t *testing.T, a, b *mesh.Config)) []refusalCase {
	return []refusalCase{
		{
			"the same name", func(_ *testing.T, _, b *mesh.Config) { b.Links.Sites[0].Name = "x" }, "a",
			`site: a site that is named \"a\" like this one dials this one`, `leads to a site that is named \"a\" like this one`,
		},
		{"the same name with an nkey", func(t *testing.T, a, b *mesh.Config) {
			keys(t, a, b)
			b.Links.Sites[0].Name = "x"
		}, "a", `site: a site that is named \"a\" like this one dials with the NKey of another`, `leads to a site that is named \"a\" like this one`},
		{
			"another name with the nkey", keys, "c",
			`mesh.links.sites: site \"c\" dials with the NKey of another: it is not there`, "site: site a lets this site in but does not hear it",
		},
		{
			"another site's address", func(_ *testing.T, _, b *mesh.Config) { b.Links.Sites[0].Name = "x" }, "",
			"", `mesh.links.sites[0].urls[0]: leads to site \"a\", not \"x\"`,
		},
	}
}

func (tt refusalCase) run(t *testing.T) {
	a, b := local(), local()
	a.Links.Listen = "127.0.0.1:0"
	a.Links.Sites = []mesh.Link{
		{Name: "b", Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}},
		{Name: "good", Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}},
	}
	b.Links.Sites = []mesh.Link{{Name: "a", Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}}
	tt.edit(t, &a, &b)
	logs := map[string]*journal{"a": {}, "b": {}}
	start := func(role, site string, cfg mesh.Config) *mesh.Node {
		d := wefttest.Deps(t, site)
		d.Node = role + "-1"
		if j := logs[role]; j != nil {
			d.Log = slog.New(slog.NewTextHandler(j, nil))
		}
		return wefttest.Start(t, cfg, d)
	}
	na := start("a", "a", a)
	good := local()
	good.TLS = a.TLS
	good.Links.Sites = []mesh.Link{{Name: "a", URLs: []string{na.LinkURL()}, Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}}
	if strings.Contains(tt.name, "for another address") {
		good.TLS, good.Links.Sites = mesh.TLS{}, nil // nobody can dial it
	}
	ng := start("good", "good", good)
	_, addr, _ := strings.Cut(na.LinkURL(), "://")
	l := &b.Links.Sites[0]
	switch strings.Join(l.URLs, "") {
	case "websocket":
		l.URLs = []string{na.LinkWebSocketURL()}
	case "plain":
		l.URLs = []string{"nats://" + addr}
	case "secure":
		l.URLs = []string{"tls://" + addr}
	default:
		l.URLs = []string{na.LinkURL()}
	}
	site := "b"
	if tt.site != "" {
		site = tt.site
	}
	nb := start("b", site, b)
	for role, want := range map[string]string{"a": tt.wantA, "b": tt.wantB} {
		within(t, 30*time.Second, func() bool { return strings.Contains(logs[role].String(), want) }, func() string {
			return fmt.Sprintf("site %s does not say %q but:\n%s", role, want, logs[role])
		})
	}
	if st, err := nb.Status(t.Context()); err != nil || st.Links[0].Up || st.Links[0].Problem == "" {
		t.Errorf("the refused link: %+v, %v", st.Links, err)
	}
	if len(good.Links.Sites) > 0 { // the rest is as it was
		publish(t, na.Bus(), "orders.created", "a", 20)
		publish(t, ng.Bus(), "orders.created", "good", 20)
		level(t, na.Bus(), ng.Bus(), 40)
	}
	if got := ids(t, nb.Bus()); total(got) != 0 {
		t.Errorf("the refused site holds %v", got)
	}
	for role, j := range logs {
		if text := j.String(); strings.Contains(text, wefttest.Secret.Reveal()) || strings.Contains(text, "another-secret-of-16") {
			t.Errorf("the log of %s shows a secret", role)
		}
	}
}

// within is Eventually with what there is to say at the end.
func within(t *testing.T, d time.Duration, cond func() bool, say func() string) {
	t.Helper()
	deadline := time.Now().Add(d)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal(say())
		}
		<-tick.C
	}
}

// rogue is a plain NATS server that dials a site with the credentials of a
// link, and a client of it that may do anything there.
func rogue(t *testing.T, remote string) *nats.Conn {
	t.Helper()
	var opts server.Options
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nserver_name: rogue\nleafnodes {remotes: [{%s}]}", remote)
	if err := opts.ProcessConfigString(text); err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// confined is one way to have a link's credentials.
type confined struct{ name, site, other, user, key string }

// Whoever has a link's credentials, and any NATS server, can reach what is the
// pair's and nothing else.
func TestLinkCredentialsReachThePairOnly(t *testing.T) {
	t.Parallel()
	cfg := local()
	cfg.Links.Listen = "127.0.0.1:0"
	seed, public, err := pki.NKey()
	if err != nil {
		t.Fatal(err)
	}
	own, _, err := pki.NKey()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Links.NKey = conf.Secret(own)
	cfg.Links.Sites = []mesh.Link{
		{Name: "b", Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}},
		{Name: "c", PublicKey: public, Export: []string{">"}, Import: []string{">"}},
	}
	tests := []confined{
		{"secret", "b", "c", "link-b:" + wefttest.Secret.Reveal() + "@", ""},
		{"nkey", "c", "b", "", ", nkey: " + seed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := wefttest.Start(t, cfg, wefttest.Deps(t, "a"))
			publish(t, n.Bus(), "orders.created", "a", 10)
			here := n.Bus().Conn()
			arrived := make(chan *nats.Msg, 256)
			if _, err := here.ChanSubscribe(">", arrived); err != nil {
				t.Fatal(err)
			}
			addr := strings.TrimPrefix(n.LinkURL(), "nats://")
			nc := rogue(t, fmt.Sprintf("url: \"nats-leaf://%s%s\"%s", tt.user, addr, tt.key))
			tt.assault(t, nc, here, arrived)
			if got := count(t, n.Bus()); got != 10+1 { // the site's own client wrote one
				t.Errorf("the site holds %d events, not 11", got)
			}
		})
	}
}

// assault tries everything from the rogue server, between two messages that may
// cross: what crosses besides has had the time to.
func (tt confined) assault(t *testing.T, nc, here *nats.Conn, arrived chan *nats.Msg) {
	t.Helper()
	heard := make(chan *nats.Msg, 256)
	for _, subject := range []string{">", "ev.>", "orders.>", "weft.>", "$JS.>", "wl." + tt.other + ".>", "wl.*.a.>", "wl." + tt.site + ".a.>"} {
		if _, err := nc.ChanSubscribe(subject, heard); err != nil {
			t.Fatal(err)
		}
	}
	in, out := "wl.a."+tt.site+".test", "wl."+tt.site+".a.test"
	wefttest.Eventually(t, 10*time.Second, "the rogue server's link", func() bool {
		err := nc.Publish(in, []byte("hello"))
		return err == nil && seen(arrived, in)
	})
	for _, subject := range []string{
		"ev.a.orders.created", "ev." + tt.other + ".orders.created", "weft.in." + tt.site + ".orders.created", "weft.in.a.orders.created",
		"weft.off.link." + tt.site, "weft.trace.spans", "orders.created", "wl.a." + tt.other + ".test", "wl." + tt.other + ".a.test",
		"$JS.API.STREAM.PURGE.EVENTS", "$JS.a.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.DELETE.EVENTS", "$JS.a.API.STREAM.DELETE.EVENTS",
		"$JS.API.DIRECT.GET.EVENTS", "$SYS.REQ.SERVER.PING",
	} {
		if err := nc.PublishRequest(subject, "wl."+tt.site+".a.reply", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range []string{"ev.a.orders.own", "orders.created", "weft.trace.spans", "wl." + tt.other + ".a.test", "wl.a." + tt.other + ".test", "_INBOX.x"} {
		if err := here.Publish(subject, []byte("own")); err != nil {
			t.Fatal(err)
		}
	}
	wefttest.Eventually(t, 10*time.Second, "the last messages", func() bool {
		if err := errors.Join(nc.Publish(in, []byte("last")), here.Publish(out, []byte("last"))); err != nil {
			return false
		}
		return last(arrived, in, func(m *nats.Msg) {
			if m.Subject != in && string(m.Data) == "{}" {
				t.Errorf("%s came in", m.Subject)
			}
		}) && last(heard, out, func(m *nats.Msg) {
			if string(m.Data) != "{}" && !strings.HasPrefix(m.Subject, "wl."+tt.site+".a.") && m.Subject != in {
				t.Errorf("%s got out", m.Subject)
			}
		})
	})
}

// seen tells whether a message is among those that have come.
func seen(ch chan *nats.Msg, subject string) bool {
	for {
		select {
		case m := <-ch:
			if m.Subject == subject {
				return true
			}
		default:
			return false
		}
	}
}

// last looks at all that has come and tells whether the last message has.
func last(ch chan *nats.Msg, subject string, each func(*nats.Msg)) (found bool) {
	for {
		select {
		case m := <-ch:
			each(m)
			found = found || m.Subject == subject && string(m.Data) == "last"
		default:
			return found
		}
	}
}
