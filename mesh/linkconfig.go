package mesh

import (
	"errors"
	"net/url"
	"strings"

	"github.com/nats-io/nkeys"

	"weft.dev/weft/internal/conf"
)

// Links joins this site to others.
type Links struct {
	Listen    string        `yaml:"listen" doc:"Address that other sites dial; empty: this site only dials. Without mesh.tls it must be on loopback, unless plaintext is true"`
	WebSocket LinkWebSocket `yaml:"websocket"`
	Plaintext bool          `yaml:"plaintext" doc:"Let links to and from other machines run without TLS: whoever is on the way reads secrets and events"`
	NKey      conf.Secret   `yaml:"nkey" doc:"This site's NKey seed (SU…, from weft pki nkey), shown to the sites that have a publicKey here and to those of the directory; with a directory, a site of one node makes its own and keeps it in its data directory"`
	Directory Directory     `yaml:"directory"`
	Sites     []Link        `yaml:"sites" doc:"The sites this one is linked to, as agreed by hand; for a site of the directory too, this goes before it"`
}

// LinkWebSocket is a second listener for links, for sites that get out by HTTP only.
type LinkWebSocket struct {
	Listen string `yaml:"listen" doc:"Address that other sites dial with ws:// or, with mesh.tls, wss://; empty: none"`
}

// Link is the agreement with one other site. Both sites have one.
type Link struct {
	Name      string      `yaml:"name" doc:"Name of the other site"`
	URLs      []string    `yaml:"urls" doc:"Link addresses of the other site, such as tls://iad.example:7422: all with tls://, nats:// (no TLS), wss:// or ws:// (no TLS); empty: the other site dials. If both could, the site whose name comes first does"`
	Proxy     conf.Secret `yaml:"proxy" doc:"HTTP proxy to dial through, such as http://user:password@proxy.example:3128"`
	Secret    conf.Secret `yaml:"secret" doc:"Shared secret of the two sites, at least 16 characters; either this or publicKey"`
	PublicKey string      `yaml:"publicKey" doc:"The other site's public NKey (U…); this site shows its links.nkey"`
	Export    []string    `yaml:"export" doc:"Subjects of this site's events that the other site may have"`
	Import    []string    `yaml:"import" doc:"Subjects wanted from the other site"`
	Edge      bool        `yaml:"edge" doc:"The other site is an edge of this one: this one passes the events of all sites on to it, and its events on to the other sites"`
	Relays    bool        `yaml:"relays" doc:"Events of the other site's edges may come by this link"`
	Home      bool        `yaml:"home" doc:"The other site is a home of this one, which is an edge: the events of all sites may come from it. An edge may have several homes"`
}

// minSecret is the shortest link secret: shorter ones can be guessed.
const minSecret = 16

// validateLinks holds the links against the certificates.
func (c Config) validateLinks() error {
	return errors.Join(conf.Under("tls", c.TLS.validate()), conf.Under("links", c.Links.validate(c.TLS.On())),
		conf.Under("links.directory", c.validateDirectory()))
}

func (l Links) validate(tls bool) error {
	errs := []error{
		l.listener("listen", l.Listen, tls),
		l.listener("websocket.listen", l.WebSocket.Listen, tls),
	}
	own := ""
	if l.NKey != "" {
		var err error
		if own, err = publicKey(l.NKey); err != nil {
			errs = append(errs, conf.Field("nkey", "want the seed of a user NKey (SU…), from weft pki nkey"))
		}
	}
	listens := l.Listen != "" || l.WebSocket.Listen != ""
	seen, keys := map[string]bool{}, map[string]bool{own: own != ""}
	for i, s := range l.Sites {
		path := conf.Item("sites", i)
		if seen[s.Name] {
			errs = append(errs, conf.Field(path+".name", "want each site once"))
		}
		seen[s.Name] = true
		if s.PublicKey != "" && keys[s.PublicKey] {
			errs = append(errs, conf.Field(path+".publicKey", "want a key of that site alone: another site here or this one has it"))
		}
		keys[s.PublicKey] = true
		if s.PublicKey != "" && l.NKey == "" {
			errs = append(errs, conf.Field("nkey", "want this site's NKey seed: "+path+" has a publicKey"))
		}
		errs = append(errs, conf.Under(path, s.validate(listens)), conf.Under(path, s.reachable(l.Plaintext)))
	}
	return errors.Join(errs...)
}

// listener wants an address on which nobody can listen in.
func (l Links) listener(key, addr string, tls bool) error {
	if addr == "" {
		return nil
	}
	if err := conf.HostPort(key, addr); err != nil {
		return err
	}
	if !tls && !l.Plaintext && !loopback(addr) {
		return conf.Field(key, "want mesh.tls, a loopback address, or links.plaintext: true")
	}
	return nil
}

func (l Link) validate(listening bool) error {
	errs := []error{conf.Name("name", l.Name), patterns("export", l.Export), patterns("import", l.Import)}
	switch {
	case l.Secret != "" && l.PublicKey != "":
		errs = append(errs, conf.Field("publicKey", "want either secret or publicKey"))
	case l.PublicKey != "":
		if !nkeys.IsValidPublicUserKey(l.PublicKey) {
			errs = append(errs, conf.Field("publicKey", "want the public NKey of that site (U…), from weft pki nkey"))
		}
	case len(l.Secret.Reveal()) < minSecret:
		errs = append(errs, conf.Field("secret", "want the secret shared with that site, at least 16 characters, or its publicKey"))
	}
	if l.Edge && l.Home {
		errs = append(errs, conf.Field("home", "want either edge or home: one of the two sites is the other's edge"))
	}
	if l.Relays && (l.Edge || l.Home) {
		errs = append(errs, conf.Field("relays", "want it at links between two sites of which neither is the other's edge: a home relays all, an edge nothing"))
	}
	if len(l.URLs) == 0 && !listening {
		errs = append(errs, conf.Field("urls", "want an address to dial, or links.listen so that the other site can"))
	}
	return errors.Join(errs...)
}

// reachable wants addresses that can be dialled without being overheard.
func (l Link) reachable(plaintext bool) error {
	return errors.Join(dialable("urls", l.URLs, plaintext), oneKind("urls", l.URLs), proxied(l.Proxy))
}

func secure(scheme string) bool { return scheme == "tls" || scheme == "wss" }

func secureForm(scheme string) string {
	if scheme == "ws" {
		return "wss://"
	}
	return "tls://"
}

// dialAddr is a URL's address with the port that the server dials.
func dialAddr(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	port := map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
	if port == "" {
		port = "7422"
	}
	return strings.TrimSuffix(u.Host, ":") + ":" + port
}

// publicKey is the public half of a user's NKey seed.
func publicKey(seed conf.Secret) (string, error) {
	pair, err := nkeys.FromSeed([]byte(seed.Reveal()))
	if err != nil {
		return "", err
	}
	defer pair.Wipe()
	key, err := pair.PublicKey()
	if err == nil && !nkeys.IsValidPublicUserKey(key) {
		err = errors.New("not a user's key")
	}
	return key, err
}
