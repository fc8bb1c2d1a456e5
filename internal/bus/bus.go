// Package bus is the one way from a role to the site's event stream: a NATS
// connection, in process or remote, with group-committed publishing, ordered
// reading, paging and durable consuming. It knows events and subjects, not
// servers or links. No compatibility promise.
package bus

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/obs"
)

// Stream is the name of the stream that holds a site's events.
const Stream = "EVENTS"

// apiTimeout bounds one JetStream API call: a call just after the server's
// start may get no answer at all, so callers retry instead of waiting longer.
const apiTimeout = 3 * time.Second

// Config is how to reach a mesh node from another process.
type Config struct {
	URL      string // nats:// or tls:// addresses, comma-separated
	Name     string // shown in the server's connection list
	User     string
	Password string
	TLS      *tls.Config
	// PerMessage switches group commit off: every event is synced on its own.
	PerMessage bool
}

// Bus is one connection to a site's mesh node. It is safe for concurrent use.
// Publishing works while Run runs.
type Bus struct {
	obs.Scope
	nc    *nats.Conn
	js    jetstream.JetStream
	site  string
	epoch atomic.Pointer[string] // of EVENTS; nil until first read
	// single: the stream has one replica, so any answer is the leader's.
	single   atomic.Bool
	hindered atomic.Pointer[hindrance] // nil: publishes are taken
	near     near
	pub      *committer
	m        *metrics
}

// Option changes a Bus.
type Option func(*Bus)

// PerMessage switches group commit off, for comparison.
func PerMessage() Option { return func(b *Bus) { b.pub.perMessage = true } }

// Dial connects to a node and waits until it answers or ctx ends. The
// connection is kept for ever: it reconnects with jitter.
func Dial(ctx context.Context, cfg Config, s obs.Scope) (*Bus, error) {
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		nats.ReconnectBufSize(-1), // a publish without a connection fails at once; the committer retries it
		nats.Timeout(apiTimeout),
		nats.PingInterval(10 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.Log.Warn("mesh connection", "err", err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { s.Log.Warn("mesh connection lost", "err", err) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { s.Log.Info("mesh connection restored", "url", nc.ConnectedUrlRedacted()) }),
	}
	if cfg.User != "" {
		opts = append(opts, nats.UserInfo(cfg.User, cfg.Password))
	}
	if cfg.TLS != nil {
		opts = append(opts, nats.Secure(cfg.TLS))
	}
	for {
		b, err := dialOnce(cfg, opts, s)
		if err == nil {
			return b, nil
		}
		s.Log.Debug("mesh node not reached yet", "url", cfg.URL, "err", err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("dial %s: %w: %w", cfg.URL, ErrUnavailable, err)
		case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
		}
	}
}

func dialOnce(cfg Config, opts []nats.Option, s obs.Scope) (*Bus, error) {
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, err
	}
	var own []Option
	if cfg.PerMessage {
		own = append(own, PerMessage())
	}
	b, err := New(nc, s, own...)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return b, nil
}

// New makes a Bus on a connection, which the caller closes after Run returned.
// It asks the server for the site's name.
func New(nc *nats.Conn, s obs.Scope, opts ...Option) (*Bus, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return nil, fmt.Errorf("use jetstream: %w", err)
	}
	info, err := js.AccountInfo(context.Background())
	if err != nil {
		return nil, fmt.Errorf("ask the node for its site: %w: %w", ErrUnavailable, err)
	}
	b := Reserve(info.Domain, s, opts...)
	return b, b.Attach(nc)
}

// Reserve makes a Bus whose connection comes later, by Attach. Only Site may be
// used before.
func Reserve(site string, s obs.Scope, opts ...Option) *Bus {
	b := &Bus{Scope: s, site: site, m: newMetrics(s.Metrics)}
	b.pub = newCommitter(b)
	for _, o := range opts {
		o(b)
	}
	return b
}

// Attach gives a reserved Bus its connection, once, before any other use.
func (b *Bus) Attach(nc *nats.Conn, opts ...Option) error {
	for _, o := range opts {
		o(b)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return fmt.Errorf("use jetstream: %w", err)
	}
	b.nc, b.js = nc, js
	b.pub.inbox = nc.NewRespInbox()
	return nil
}

// Run commits publishes until ctx ends, then commits what is queued.
func (b *Bus) Run(ctx context.Context) error {
	defer b.near.close()
	return b.pub.run(ctx)
}

// Site is the name of the site the connection leads to.
func (b *Bus) Site() string { return b.site }

// Conn is the connection itself, for requests between nodes and sidecars.
func (b *Bus) Conn() *nats.Conn { return b.nc }

// JetStream is for streams and buckets other than EVENTS.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }
