package mesh

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nkeys"

	"weft.dev/weft/internal/conf"
)

// probeTimeout bounds what is tried at one address.
const probeTimeout = 5 * time.Second

// greeting is what a server says first.
type greeting struct {
	Name        string `json:"server_name"`
	Nonce       string `json:"nonce"`
	TLSRequired bool   `json:"tls_required"`
}

// site is the name of the site that a server belongs to.
func (g greeting) site() string {
	site, _, _ := strings.Cut(g.Name, ":")
	return site
}

// attempt is one address of a link that is tried by hand to learn why the
// server's own attempts fail: it goes all the way but makes no link.
type attempt struct {
	node *Node
	link Link
	key  string // the address in the configuration: links.sites[0].urls[0]
	url  *url.URL
	// joining: the site there is not known yet; link has only what the address says.
	joining bool
}

// unreachable is what the network or a site that is down is to blame for.
type unreachable struct{ error }

// probe tries a link's addresses until one works. The error names the setting
// at fault at the first.
func (l *link) probe(ctx context.Context) error {
	var first error
	for i, raw := range l.URLs {
		u, err := url.Parse(raw)
		if err != nil {
			continue // Validate has refused it
		}
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		err = attempt{node: l.node, link: l.Link, key: l.urlKey(i), url: u}.run(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// key is the path of one of the link's settings.
func (l *link) key(name string) string {
	for i, s := range l.node.cfg.Links.Sites {
		if s.Name == l.Name {
			return conf.Item("mesh.links.sites", i) + "." + name
		}
	}
	return "mesh.links.directory: the " + name + " of site " + l.Name
}

// urlKey is the path of one of the link's addresses.
func (l *link) urlKey(i int) string {
	if l.listed() {
		return conf.Item(l.key("urls"), i)
	}
	return fmt.Sprintf("mesh.links.directory.advertise of site %s (%s)", l.Name, l.URLs[i])
}

// listed tells whether a link is one of the configuration, not of the directory.
func (l *link) listed() bool {
	return slices.ContainsFunc(l.node.cfg.Links.Sites, func(s Link) bool { return s.Name == l.Name })
}

// run shows the link's credentials at the address and tells what comes of it.
func (a attempt) run(ctx context.Context) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // nothing was promised on it
	if _, err := io.WriteString(s, a.connect(s.hello)); err != nil {
		return a.refused(err)
	}
	return a.verdict(s.in.ReadString('\n'))
}

// dialogue is a connection to a link listener that has said who it is. What is
// sent and read goes through TLS and WebSocket where the address says so.
type dialogue struct {
	io.WriteCloser
	in    *bufio.Reader
	hello greeting
}

// open connects to the address and reads the greeting. The connection ends with
// the deadline of ctx.
func (a attempt) open(ctx context.Context) (s dialogue, err error) {
	conn, err := a.dial(ctx)
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close() // the error says more
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return s, conf.Field(a.key, err.Error())
		}
	}
	if strings.HasPrefix(a.url.Scheme, "ws") {
		return a.overWebSocket(ctx, conn)
	}
	s.WriteCloser, s.in = conn, bufio.NewReader(conn)
	if s.hello, err = a.greet(s.in.ReadString('\n')); err != nil {
		return s, err
	}
	if secure(a.url.Scheme) {
		client, err := a.secure(ctx, conn)
		if err != nil {
			return s, err
		}
		s.WriteCloser, s.in = client, bufio.NewReader(client)
	}
	return s, nil
}

// dial connects, through the proxy if there is one.
func (a attempt) dial(ctx context.Context) (net.Conn, error) {
	target, d := dialAddr(a.url), &net.Dialer{}
	if a.link.Proxy == "" {
		conn, err := d.DialContext(ctx, "tcp", target)
		if err != nil {
			return nil, &unreachable{conf.Field(a.key, err.Error())}
		}
		return conn, nil
	}
	key := a.beside("proxy")
	p, err := url.Parse(a.link.Proxy.Reveal())
	if err != nil {
		return nil, conf.Field(key, "want a URL")
	}
	port := map[string]string{"http": "80", "https": "443"}[p.Scheme]
	if p.Port() != "" {
		port = p.Port()
	}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(p.Hostname(), port))
	if err != nil {
		return nil, conf.Field(key, err.Error())
	}
	if p.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: p.Hostname(), MinVersion: tls.VersionTLS12})
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if password, ok := p.User.Password(); ok {
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(p.User.Username()+":"+password)))
	}
	var resp *http.Response
	if err = req.Write(conn); err == nil {
		if resp, err = http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), req); err == nil {
			err = resp.Body.Close()
		}
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the proxy does not connect to %s: %s", target, resp.Status)
	}
	if err != nil {
		return nil, errors.Join(conf.Field(key, err.Error()), conn.Close())
	}
	return conn, nil
}

// beside is the path of another setting of the link.
func (a attempt) beside(name string) string {
	if a.inDirectory() {
		return "mesh.links.directory." + name
	}
	return a.key[:strings.LastIndex(a.key, ".")+1] + name
}

// inDirectory tells whether the address is one of the directory.
func (a attempt) inDirectory() bool { return strings.HasPrefix(a.key, "mesh.links.directory.") }

// who is the site at the address, as far as that is known.
func (a attempt) who() string {
	if a.link.Name == "" {
		return "the site at " + dialAddr(a.url)
	}
	return "site " + a.link.Name
}

// oneByte reads no further than asked, so that what follows the answer of a
// proxy stays in the connection.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return r.Reader.Read(p)
}

// greet checks the first line of a server against the settings.
func (a attempt) greet(line string, err error) (greeting, error) {
	var hello greeting
	raw, ok := strings.CutPrefix(line, "INFO ")
	var silent net.Error
	switch {
	case errors.As(err, &silent) && silent.Timeout():
		return hello, &unreachable{conf.Field(a.key, "connects, but nothing answers there")}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return hello, &unreachable{conf.Field(a.key, "the connection is closed at once there")}
	case err != nil, !ok, json.Unmarshal([]byte(raw), &hello) != nil:
		return hello, conf.Field(a.key, "what listens there is no link listener of Weft")
	}
	switch site := hello.site(); {
	case !a.joining && site == a.node.Site:
		return hello, conf.Field(a.key, fmt.Sprintf("leads to a site that is named %q like this one: give each its own name (site)", site))
	case !a.joining && site != a.link.Name:
		return hello, conf.Field(a.key, fmt.Sprintf("leads to site %q, not %q", site, a.link.Name))
	case hello.TLSRequired && a.url.Scheme != "wss" && !secure(a.url.Scheme):
		return hello, conf.Field(a.key, "site "+site+" wants TLS: write tls://, and set mesh.tls")
	case !hello.TLSRequired && a.url.Scheme == "tls":
		return hello, conf.Field(a.key, "site "+site+" has no TLS: set mesh.tls there")
	}
	return hello, nil
}

// secure makes the connection a TLS one.
func (a attempt) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	cfg, err := a.tls()
	if err != nil {
		return nil, err
	}
	client := tls.Client(conn, cfg)
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, a.refused(err)
	}
	return client, nil
}

func (a attempt) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.node.cfg.TLS.On() {
		var err error
		if cfg, err = a.node.cfg.TLS.load(time.Now()); err != nil {
			return nil, conf.Under("mesh.tls", err)
		}
	}
	cfg.ServerName = a.url.Hostname()
	return cfg, nil
}

// refused tells which setting an error of TLS is about.
func (a attempt) refused(err error) error {
	var host x509.HostnameError
	var authority x509.UnknownAuthorityError
	site := a.who()
	switch {
	case errors.As(err, &host):
		return conf.Field(a.key, fmt.Sprintf("the certificate of %s is not for this address: %v", site, err))
	case errors.As(err, &authority):
		return conf.Field("mesh.tls.ca", fmt.Sprintf("the certificate of %s is of another authority", site))
	case strings.Contains(err.Error(), "certificate required"):
		return conf.Field("mesh.tls.cert", site+" wants a certificate of this site")
	case strings.Contains(err.Error(), "remote error: tls:"):
		return conf.Field("mesh.tls.cert", fmt.Sprintf("%s does not accept this site's certificate (%v): both need one authority in mesh.tls.ca", site, err))
	}
	return conf.Field(a.key, err.Error())
}

// connect shows the link's credentials as a client would: the server checks
// them, and then sends clients away.
func (a attempt) connect(hello greeting) string {
	fields := map[string]any{"lang": "weft", "name": a.node.Site + ":" + a.node.Node}
	if a.link.PublicKey == "" {
		fields["user"], fields["pass"] = linkUser(a.node.Site), a.link.Secret.Reveal()
	} else if pair, err := nkeys.FromSeed([]byte(a.node.cfg.Links.NKey.Reveal())); err == nil {
		defer pair.Wipe()
		sig, err := pair.Sign([]byte(hello.Nonce))
		if public, keyErr := pair.PublicKey(); err == nil && keyErr == nil {
			fields["nkey"], fields["sig"] = public, base64.RawURLEncoding.EncodeToString(sig)
		}
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return "" // strings always encode
	}
	return "CONNECT " + string(raw) + "\r\n"
}

// sentAway is what the server tells a client that it lets in.
const sentAway = "attempted to connect to leaf node port"

// verdict is what the server's answer to the credentials means.
func (a attempt) verdict(line string, err error) error {
	site := a.link.Name
	switch {
	case strings.Contains(line, sentAway):
		return nil
	case strings.Contains(line, "Authorization Violation") && a.inDirectory():
		return conf.Field("mesh.links.nkey", fmt.Sprintf("site %s does not let this site in: it has not heard of it yet, or has let go of it (see weft mesh sites there)", site))
	case strings.Contains(line, "Authorization Violation") && a.link.PublicKey != "":
		return conf.Field("mesh.links.nkey", fmt.Sprintf("site %s does not know this site's NKey: it wants its public key as publicKey of site %s", site, a.node.Site))
	case strings.Contains(line, "Authorization Violation"):
		return conf.Field(a.beside("secret"), fmt.Sprintf("site %s refuses it: the secret there is another, or site %s is not in its mesh.links.sites", site, a.node.Site))
	case err != nil:
		return a.refused(err)
	}
	return conf.Field(a.key, fmt.Sprintf("site %s answers %q", site, strings.TrimSpace(line)))
}

// overWebSocket goes on as a client of a WebSocket listener does.
func (a attempt) overWebSocket(ctx context.Context, conn net.Conn) (s dialogue, err error) {
	u := *a.url
	u.Host, u.Path = dialAddr(a.url), strings.TrimSuffix(u.Path, "/")+"/leafnode"
	cfg, err := a.tls()
	if err != nil {
		return s, err
	}
	d := websocket.Dialer{
		NetDialContext:   func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		TLSClientConfig:  cfg,
		HandshakeTimeout: probeTimeout,
	}
	ws, resp, err := d.DialContext(ctx, u.String(), nil)
	if resp != nil {
		defer func() { _ = resp.Body.Close() }() // it is in memory
	}
	switch {
	case err != nil && resp != nil:
		return s, conf.Field(a.key, "what listens there takes no links: it answers "+resp.Status)
	case err != nil:
		return s, a.refused(err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = ws.SetReadDeadline(deadline) // it always can
	}
	stream := &webSocketStream{ws: ws}
	s.WriteCloser, s.in = stream, bufio.NewReader(stream)
	s.hello, err = a.greet(s.in.ReadString('\n'))
	return s, err
}

// webSocketStream reads messages as one stream, and writes each piece as a message.
type webSocketStream struct {
	ws   *websocket.Conn
	rest io.Reader // of the message being read
}

func (s *webSocketStream) Read(p []byte) (int, error) {
	for {
		if s.rest != nil {
			n, err := s.rest.Read(p)
			if n > 0 || !errors.Is(err, io.EOF) {
				return n, err
			}
		}
		_, next, err := s.ws.NextReader()
		if err != nil {
			return 0, err
		}
		s.rest = next
	}
}

func (s *webSocketStream) Write(p []byte) (int, error) {
	return len(p), s.ws.WriteMessage(websocket.BinaryMessage, p)
}

func (s *webSocketStream) Close() error { return s.ws.Close() }
