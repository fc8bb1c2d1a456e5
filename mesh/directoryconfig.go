package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"weft.dev/weft/internal/conf"
)

// Directory is how sites learn of each other, so that a new one needs one address.
type Directory struct {
	Secret    conf.Secret `yaml:"secret" doc:"What admits a site to the mesh, the same at all its sites, at least 16 characters; empty: no directory, sites are listed by hand"`
	Join      []string    `yaml:"join" doc:"Link addresses of sites that are in the mesh already, such as tls://fra.example:7422; one is enough, an edge gives each of its homes. Empty at the first site"`
	Advertise []string    `yaml:"advertise" doc:"Link addresses under which other sites dial this one; empty: mesh.links.listen if it names an address, and without one this site only dials"`
	Role      string      `yaml:"role" doc:"core: linked to all core sites; edge: only to the sites in join, which pass the events of all others on"`
	Export    []string    `yaml:"export" doc:"Subjects of this site's events that the sites of the directory may have"`
	Import    []string    `yaml:"import" doc:"Subjects wanted from the sites of the directory"`
	Proxy     conf.Secret `yaml:"proxy" doc:"HTTP proxy to dial the sites of the directory through, such as http://user:password@proxy.example:3128"`
}

// Roles of a site in the directory.
const (
	roleCore = "core"
	roleEdge = "edge"
)

func defaultDirectory() Directory {
	return Directory{Role: roleCore, Export: []string{">"}, Import: []string{">"}}
}

// On tells whether the site takes part in the directory.
func (d Directory) On() bool { return d.Secret != "" }

// validateDirectory holds the directory against the rest of the configuration.
func (c Config) validateDirectory() error {
	l, d := c.Links, c.Links.Directory
	if !d.On() {
		if len(d.Join) > 0 {
			return conf.Field("secret", "want the secret of the mesh: join is set")
		}
		return nil
	}
	errs := []error{
		conf.OneOf("role", d.Role, roleCore, roleEdge),
		patterns("export", d.Export), patterns("import", d.Import),
		dialable("join", d.Join, l.Plaintext), dialable("advertise", d.Advertise, l.Plaintext),
		oneKind("advertise", d.Advertise), proxied(d.Proxy),
	}
	if len(d.Secret.Reveal()) < minSecret {
		errs = append(errs, conf.Field("secret", "want at least 16 characters"))
	}
	if len(d.Advertise) > maxURLs {
		errs = append(errs, conf.Field("advertise", fmt.Sprintf("want at most %d", maxURLs)))
	}
	if c.Clustered() && l.NKey == "" {
		errs = append(errs, conf.Field("secret", "want mesh.links.nkey too, the same at all nodes of the site: a new one from weft pki nkey, or that in "+seedFile+" in the data directory of a site that had one node"))
	}
	listens := l.Listen != "" || l.WebSocket.Listen != ""
	switch {
	case d.Role == roleEdge && len(d.Advertise) > 0:
		errs = append(errs, conf.Field("advertise", "want none: an edge dials its homes and is not dialled"))
	case d.Role == roleEdge && len(d.Join) == 0:
		errs = append(errs, conf.Field("join", "want the address of the edge's home"))
	case d.Role == roleCore && listens && len(d.Advertise) == 0 && (c.Clustered() || !definite(l.Listen)):
		errs = append(errs, conf.Field("advertise", "want the addresses under which other sites dial this one: they do not follow from mesh.links.listen"))
	case d.Role == roleCore && !listens && len(d.Advertise) == 0 && len(d.Join) == 0:
		errs = append(errs, conf.Field("join", "want the address of a site of the mesh, or mesh.links.listen at its first site"))
	}
	return errors.Join(errs...)
}

// definite tells whether an address to listen on is one to dial, too.
func definite(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	return err == nil && host != "" && (ip == nil || !ip.IsUnspecified())
}

// dialable wants addresses that can be dialled without being overheard.
func dialable(path string, urls []string, plaintext bool) error {
	var errs []error
	for i, raw := range urls {
		path := conf.Item(path, i)
		if err := conf.URL(path, raw, "tls", "nats", "nats-leaf", "wss", "ws"); err != nil {
			errs = append(errs, err)
			continue
		}
		u, err := url.Parse(raw)
		switch {
		case err != nil: // URL has reported it
		case u.User != nil:
			errs = append(errs, conf.Field(path, "want no user or password: those are secret, or nkey and publicKey"))
		case !secure(u.Scheme) && !plaintext && !loopback(dialAddr(u)):
			errs = append(errs, conf.Field(path, fmt.Sprintf("want %s, a loopback address, or links.plaintext: true", secureForm(u.Scheme))))
		}
	}
	return errors.Join(errs...)
}

// oneKind wants addresses that the server can dial as those of one site.
func oneKind(path string, urls []string) error {
	var errs []error
	first := ""
	for i, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			continue // dialable has reported it
		}
		if s := strings.TrimSuffix(u.Scheme, "-leaf"); first == "" {
			first = s
		} else if s != first {
			errs = append(errs, conf.Field(conf.Item(path, i), "want "+first+":// as in the first: the server dials all addresses of a site in one way"))
		}
	}
	return errors.Join(errs...)
}

// proxied wants an HTTP proxy, or none.
func proxied(proxy conf.Secret) error {
	if proxy == "" {
		return nil
	}
	if err := conf.URL("proxy", proxy.Reveal(), "http", "https"); err != nil {
		return err
	}
	if u, err := url.Parse(proxy.Reveal()); err == nil && u.User != nil {
		if p, _ := u.User.Password(); p == "" || u.User.Username() == "" {
			return conf.Field("proxy", "want both user and password, or neither")
		}
	}
	return nil
}
