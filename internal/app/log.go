package app

import (
	"io"
	"log/slog"

	"weft.dev/weft/internal/obs"
)

// NewLogger writes to out as configured.
func NewLogger(out io.Writer, cfg Log) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(cfg.Level)) != nil {
		level = slog.LevelInfo // Validate names a wrong level
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return obs.Logger(slog.NewJSONHandler(out, opts))
	}
	return obs.Logger(slog.NewTextHandler(out, opts))
}
