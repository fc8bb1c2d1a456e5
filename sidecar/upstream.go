package sidecar

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
)

const (
	dialEvery      = 250 * time.Millisecond // between attempts; half of it again as jitter
	upstreamDial   = 2 * time.Second
	pingEvery      = 5 * time.Second  // two missed pings and the connection counts as lost
	publishTimeout = 10 * time.Second // then the app is told to try again
)

var errNoUpstream = fmt.Errorf("not connected to the mesh: %w", bus.ErrUnavailable)

// upstream is the connection to the site, which is tried for ever. Until there
// is one, everything that needs it fails at once with bus.ErrUnavailable.
type upstream struct {
	obs.Scope
	cfg     Upstream
	name    string
	bus     atomic.Pointer[bus.Bus] // nil before the first connection
	lastErr atomic.Pointer[string]
	first   chan struct{} // closed with the first connection
}

// run connects and commits publishes until ctx ends.
func (u *upstream) run(ctx context.Context) error {
	opts, err := u.options()
	if err != nil {
		return err
	}
	b, err := u.dial(ctx, opts)
	if err != nil {
		return nil // ctx ended before there was a connection
	}
	u.bus.Store(b)
	close(u.first)
	u.Log.InfoContext(ctx, "connected to the mesh", "url", b.Conn().ConnectedUrlRedacted(), "site", b.Site())
	err = b.Run(ctx)
	if ferr := b.Conn().FlushTimeout(time.Second); ferr != nil {
		u.Log.Debug("last messages not flushed", "err", ferr)
	}
	b.Conn().Close()
	return err
}

func (u *upstream) dial(ctx context.Context, opts []nats.Option) (*bus.Bus, error) {
	for {
		b, err := u.dialOnce(opts)
		if err == nil {
			return b, nil
		}
		reason := err.Error()
		if old := u.lastErr.Swap(&reason); old == nil || *old != reason {
			u.Log.WarnContext(ctx, "mesh not reached", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(dialEvery + jitter(dialEvery/2)):
		}
	}
}

func (u *upstream) dialOnce(opts []nats.Option) (*bus.Bus, error) {
	nc, err := nats.Connect(strings.Join(u.cfg.URLs, ","), opts...)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	b, err := bus.New(nc, u.Scope)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return b, nil
}

func (u *upstream) options() ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name(u.name),
		nats.Timeout(upstreamDial),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(dialEvery),
		nats.ReconnectJitter(dialEvery, 2*dialEvery),
		nats.ReconnectBufSize(-1), // nothing is sent later behind the caller's back
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingEvery),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				reason := err.Error()
				u.lastErr.Store(&reason)
				u.Log.Warn("mesh connection lost", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			u.Log.Info("mesh connection restored", "url", nc.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			u.Log.Debug("mesh connection error", "err", err)
		}),
	}
	switch c := u.cfg; {
	case c.User != "":
		opts = append(opts, nats.UserInfo(c.User, c.Password.Reveal()))
	case c.Token != "":
		opts = append(opts, nats.Token(c.Token.Reveal()))
	case c.Credentials != "":
		opts = append(opts, nats.UserCredentials(c.Credentials))
	}
	secure, err := u.cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	if secure != nil {
		opts = append(opts, nats.Secure(secure))
	}
	return opts, nil
}

// config reads the files; nil without any.
func (t TLS) config() (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read upstream.tls.ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read upstream.tls.ca: no certificate in %s", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("read upstream.tls.cert: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// connected returns the bus while there is a connection.
func (u *upstream) connected() (*bus.Bus, error) {
	b := u.bus.Load()
	if b == nil || !b.Conn().IsConnected() {
		return nil, errNoUpstream
	}
	return b, nil
}

// reason says why there is no connection.
func (u *upstream) reason() string {
	if _, err := u.connected(); err == nil {
		return ""
	}
	if last := u.lastErr.Load(); last != nil {
		return "not connected to the mesh: " + *last
	}
	return "not connected to the mesh yet"
}

// site is empty before the first connection.
func (u *upstream) site() string {
	if b := u.bus.Load(); b != nil {
		return b.Site()
	}
	return ""
}

// Publish stores one event; with PublishAll it makes the upstream an
// httpd.Publisher.
func (u *upstream) Publish(ctx context.Context, p bus.Publication) (bus.Ack, error) {
	b, err := u.connected()
	if err != nil {
		return bus.Ack{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return b.Publish(ctx, p)
}

// PublishAll stores events in order.
func (u *upstream) PublishAll(ctx context.Context, ps []bus.Publication) []bus.Result {
	b, err := u.connected()
	if err != nil {
		results := make([]bus.Result, len(ps))
		for i := range results {
			results[i].Err = err
		}
		return results
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return b.PublishAll(ctx, ps)
}
