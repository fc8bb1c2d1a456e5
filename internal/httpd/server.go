package httpd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	readHeaderTimeout = 10 * time.Second // a client that never finishes its headers
	idleTimeout       = 2 * time.Minute  // keep-alive between requests
	drainTimeout      = 10 * time.Second // requests in flight at shutdown; then they are cut
	maxHeaderBytes    = 64 << 10         // above event.MaxHeaders, so that the answer can name that limit
	bodyTimeout       = 30 * time.Second // one publish body from first to last byte
)

// Server serves one listener until its context ends, then drains.
type Server struct {
	name     string
	listener net.Listener
	handler  http.Handler
	log      *slog.Logger
	ready    chan struct{}
}

// New returns a server for handler on l. The name tells listeners apart in the log.
func New(name string, l net.Listener, handler http.Handler, log *slog.Logger) *Server {
	return &Server{name: name, listener: l, handler: handler, log: log, ready: make(chan struct{})}
}

// Ready is closed when requests are served.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr is the address that is listened on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends; then it takes no new connection, lets requests in
// flight finish for drainTimeout and cuts the rest. Handlers of long answers
// watch Stopping. Nil means that nothing was cut.
func (s *Server) Run(ctx context.Context) error {
	stopping := make(chan struct{})
	base := context.WithValue(context.WithoutCancel(ctx), stoppingKey{}, (<-chan struct{})(stopping))
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.listener) }() // ends with Shutdown or Close below
	close(s.ready)
	s.log.InfoContext(ctx, "listening", "listener", s.name, "addr", s.listener.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("serve %s on %s: %w", s.name, s.listener.Addr(), err)
	case <-ctx.Done():
	}
	close(stopping)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := srv.Shutdown(drain)
	if err != nil {
		err = errors.Join(fmt.Errorf("drain %s: %w", s.name, err), srv.Close())
	}
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

type stoppingKey struct{}

// Stopping is closed when the server of a request begins to drain: handlers of
// endless answers return then. It is nil, so never ready, outside a Server.
func Stopping(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(stoppingKey{}).(<-chan struct{})
	return c
}
