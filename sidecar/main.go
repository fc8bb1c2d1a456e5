package sidecar

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"weft.dev/weft/internal/obs"
)

// Main runs a sidecar as a process of its own: it opens the listeners, logs to
// out and returns when ctx has ended and everything is drained.
func Main(ctx context.Context, cfg Config, out io.Writer) error {
	log, err := cfg.Telemetry.Log.logger(out)
	if err != nil {
		return err
	}
	var listen net.ListenConfig
	api, err := listen.Listen(ctx, "tcp", cfg.Listeners.API)
	if err != nil {
		return fmt.Errorf("open listeners.api: %w", err)
	}
	admin, err := listen.Listen(ctx, "tcp", cfg.Listeners.Metrics)
	if err != nil {
		_ = api.Close() // nothing was served on it
		return fmt.Errorf("open listeners.metrics: %w", err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p, err := New(cfg, Deps{Log: log, Metrics: reg, API: api, Admin: admin})
	if err != nil {
		_, _ = api.Close(), admin.Close() // nothing was served on them
		return err
	}
	return p.Run(ctx)
}

func (l Log) logger(out io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, fmt.Errorf("read telemetry.log.level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return obs.Logger(slog.NewJSONHandler(out, opts)), nil
	}
	return obs.Logger(slog.NewTextHandler(out, opts)), nil
}
