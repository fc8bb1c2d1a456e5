package mesh

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// serverLog writes the server's log to slog. What the server would end the
// process for goes to fatal.
type serverLog struct {
	log   *slog.Logger
	fatal chan error
	// explain takes an error that it can put better.
	explain func(line string) bool
	// heard is told of every error.
	heard func(line string)
}

// Noticef takes the server's routine messages: details at this level.
func (l *serverLog) Noticef(format string, v ...any) {
	l.log.Debug("nats server", "text", fmt.Sprintf(format, v...))
}

// Warnf takes warnings.
func (l *serverLog) Warnf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.Contains(text, "Plaintext passwords detected") {
		return // Weft makes these passwords for one run, in memory
	}
	if strings.Contains(text, "Waiting for routing to be established") {
		l.log.Debug("nats server", "text", text) // the node says itself what it waits for
		return
	}
	l.log.Warn("nats server", "text", text)
}

// Errorf takes errors; the server goes on.
func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.heard(text)
	if l.explain(text) {
		l.log.Debug("nats server", "text", text) // said in other words
		return
	}
	for _, routine := range []string{"Error trying to connect as leafnode", "Error trying to connect to route", "Error flushing"} {
		if strings.Contains(text, routine) {
			l.log.Debug("nats server", "text", text) // a connection ended: links report their own state
			return
		}
	}
	l.log.Error("nats server", "text", text)
}

// Fatalf takes what the server cannot live with.
func (l *serverLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- errors.New(strings.TrimSpace(fmt.Sprintf(format, v...))):
	default: // the first ones suffice
	}
}

// Debugf is off.
func (l *serverLog) Debugf(string, ...any) {}

// Tracef is off.
func (l *serverLog) Tracef(string, ...any) {}
