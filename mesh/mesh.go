// Package mesh is a node of the event mesh: an embedded NATS server with
// JetStream, the site's event stream, and the links to other sites. It knows
// nothing of HTTP, webhooks or bridges. It makes no compatibility promise.
package mesh

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
)

// Config is the mesh section of a node's configuration.
type Config struct {
	Client  Client  `yaml:"client"`
	Cluster Cluster `yaml:"cluster"`
	Gossip  Gossip  `yaml:"gossip"`
	Links   Links   `yaml:"links"`
	TLS     TLS     `yaml:"tls"`
	Events  Events  `yaml:"events"`
}

// Client is the listener for NATS clients and sidecars.
type Client struct {
	Listen string `yaml:"listen" doc:"Address for NATS clients and sidecars; empty: none"`
	Users  []User `yaml:"users" doc:"Who may connect; none: anyone, which is allowed on loopback only"`
}

// User is a NATS client or sidecar that may connect.
type User struct {
	Name      string      `yaml:"name" doc:"User name"`
	Password  conf.Secret `yaml:"password" doc:"Password"`
	Publish   []string    `yaml:"publish" doc:"NATS subjects the user may publish to; empty: all"`
	Subscribe []string    `yaml:"subscribe" doc:"NATS subjects the user may subscribe to; empty: all"`
}

// Events is the site's event stream.
type Events struct {
	MaxAge      conf.Duration `yaml:"maxAge" doc:"How long events are kept; a link may be down this long without loss"`
	MaxBytes    conf.Size     `yaml:"maxBytes" doc:"Disk for events; the oldest go first"`
	Replicas    int           `yaml:"replicas" doc:"Nodes that keep each event: 1, 3 or 5; 0: 3 at a site of 3 and more nodes, else 1"`
	Capture     []string      `yaml:"capture" doc:"Plain NATS subjects whose messages become events of this site"`
	GroupCommit bool          `yaml:"groupCommit" doc:"Commit publishes that arrive together in one synced write"`
	Staging     string        `yaml:"staging" doc:"Where a commit of several events is prepared: memory (a tmpfs, much faster; after a power loss in the middle of a commit some of its unacknowledged events may be stored and others not) or disk (all or none)"`
}

// DefaultConfig is one node that listens on loopback.
func DefaultConfig() Config {
	return Config{
		Client:  Client{Listen: "127.0.0.1:4222"},
		Cluster: Cluster{Size: 1},
		Links:   Links{Directory: defaultDirectory()},
		Events: Events{
			MaxAge: conf.Duration(7 * 24 * time.Hour), MaxBytes: 10 << 30,
			GroupCommit: true, Staging: stagingMemory,
		},
	}
}

const (
	stagingMemory = "memory"
	stagingDisk   = "disk"
)

// Validate names every key that cannot work.
func (c Config) Validate() error {
	return errors.Join(
		c.validateCluster(),
		conf.Under("client", c.Client.validate()),
		c.validateLinks(),
		conf.Under("events", c.Events.validate()),
	)
}

// ValidateAt is Validate for the configuration of the named site.
func (c Config) ValidateAt(site string) error {
	errs := []error{c.Validate()}
	for i, l := range c.Links.Sites {
		if l.Name == site {
			errs = append(errs, conf.Field(conf.Item("links.sites", i)+".name", "want another site: none is linked to itself"))
		}
	}
	return errors.Join(errs...)
}

func (c Client) validate() error {
	var errs []error
	if c.Listen != "" {
		errs = append(errs, conf.HostPort("listen", c.Listen))
		if len(c.Users) == 0 && !loopback(c.Listen) {
			errs = append(errs, conf.Field("listen", "want a loopback address, or users: anyone could connect"))
		}
	}
	seen := map[string]bool{}
	for i, u := range c.Users {
		path := conf.Item("users", i)
		errs = append(errs, conf.Required(path+".name", u.Name), conf.Required(path+".password", u.Password))
		if seen[u.Name] || reservedUser.MatchString(u.Name) {
			errs = append(errs, conf.Field(path+".name", "want a name that is not taken"))
		}
		seen[u.Name] = true
		errs = append(errs, subjects(path+".publish", u.Publish), subjects(path+".subscribe", u.Subscribe))
	}
	return errors.Join(errs...)
}

// subjects wants NATS subjects, which may hold more than Weft's.
func subjects(path string, list []string) error {
	var errs []error
	for i, s := range list {
		if !server.IsValidSubject(s) {
			errs = append(errs, conf.Field(conf.Item(path, i), fmt.Sprintf("want a NATS subject such as ev.fra.orders.>, have %q", s)))
		}
	}
	return errors.Join(errs...)
}

// reservedUser are the users Weft makes itself.
var reservedUser = regexp.MustCompile(`^(weft-.*|link-.*)$`)

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true // HostPort reports it
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// patterns wants Weft patterns that do not cross each other.
func patterns(path string, ps []string) error {
	var errs []error
	for i, p := range ps {
		if err := event.CheckPattern(p); err != nil {
			errs = append(errs, conf.Field(conf.Item(path, i), err.Error()))
			continue
		}
		for _, q := range ps[:i] {
			if event.CheckPattern(q) == nil && event.Overlap(p, q) && !event.Subset(p, q) && !event.Subset(q, p) {
				errs = append(errs, conf.Field(conf.Item(path, i), "crosses "+q+": write patterns that do not share subjects"))
			}
		}
	}
	return errors.Join(errs...)
}

func (e Events) validate() error {
	errs := []error{
		conf.AtLeast("maxAge", e.MaxAge, conf.Duration(time.Minute)),
		conf.AtLeast("maxBytes", e.MaxBytes, 16<<20),
		conf.OneOf("staging", e.Staging, stagingMemory, stagingDisk),
		patterns("capture", e.Capture),
	}
	for i, p := range e.Capture {
		if slices.ContainsFunc([]string{"ev.>", "weft.>", "wl.>", "$JS.>", "$SYS.>", "_INBOX.>"}, func(own string) bool { return event.Overlap(p, own) }) {
			errs = append(errs, conf.Field(conf.Item("capture", i), "want subjects outside ev., weft. and wl."))
		}
	}
	return errors.Join(errs...)
}
