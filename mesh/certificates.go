package mesh

import (
	"context"
	"maps"
	"os"
	"time"

	"weft.dev/weft/internal/run"
)

// certificatesEvery is how often the files of mesh.tls are looked at, and
// expireWarning, how long before a certificate expires the log says so, daily.
const (
	certificatesEvery = time.Minute
	expireWarning     = 14 * 24 * time.Hour
)

// certificates brings renewed certificates to the server while it runs.
type certificates struct {
	node   *Node
	read   map[string]time.Time // when the files in use were written
	warned time.Time
}

func newCertificates(n *Node) *certificates {
	c := &certificates{node: n}
	c.read = c.written()
	return c
}

// Run looks at the files until ctx ends.
func (c *certificates) Run(ctx context.Context) error {
	for {
		c.look(ctx)
		run.Pause(ctx, certificatesEvery)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// look reloads the server if the files have changed and can work. Connections
// that stand go on with what they have.
func (c *certificates) look(ctx context.Context) {
	n, now := c.node, time.Now()
	found := c.written()
	cfg, err := n.cfg.TLS.load(now)
	if err == nil && !maps.Equal(found, c.read) {
		if err = n.reload(); err == nil {
			c.read = found
			n.Log.InfoContext(ctx, "certificates read again", "until", cfg.Certificates[0].Leaf.NotAfter)
		}
	}
	if err == nil {
		if until := cfg.Certificates[0].Leaf.NotAfter; until.Sub(now) < expireWarning {
			err = expiring(until)
		}
	}
	if err != nil && now.Sub(c.warned) > 24*time.Hour {
		c.warned = now
		n.Log.ErrorContext(ctx, "certificates must be renewed", "file", n.cfg.TLS.Cert, "err", err)
	}
}

type expiring time.Time

func (e expiring) Error() string {
	return "the certificate expires on " + time.Time(e).Format(time.DateOnly)
}

// written is when each file was written; a file that is not there counts as never.
func (c *certificates) written() map[string]time.Time {
	out := map[string]time.Time{}
	for _, name := range []string{c.node.cfg.TLS.CA, c.node.cfg.TLS.Cert, c.node.cfg.TLS.Key} {
		if info, err := os.Stat(name); err == nil {
			out[name] = info.ModTime()
		}
	}
	return out
}
