// Package demo runs the whole product in one process: two linked sites, a shop
// whose services stand behind sidecars, an embedded Kafka and SNS/SQS, a partner
// who verifies webhooks, and a browser page. It keeps the account of every
// accepted event at every sink. It makes no compatibility promise.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"weft.dev/weft/internal/run"
)

// Config is what weft demo is asked for.
type Config struct {
	For     time.Duration // end by itself after this long; 0 runs until ctx ends
	Rate    float64       // orders per second
	AnyPort bool          // free ports instead of the usual ones
	Verbose bool          // log of every part
	OTLP    string        // OTLP/HTTP receiver that both sites export their spans to; empty: none
	JSON    bool          // summary as JSON
	Out     io.Writer     // tables and the summary
	Log     io.Writer
}

// maxRate is more than the demo's sinks take on any machine.
const maxRate = 10_000

// Validate names every setting that cannot work.
func (c Config) Validate() error {
	var errs []error
	if c.For < 0 {
		errs = append(errs, fmt.Errorf("--for %s: want 0 or more", c.For))
	}
	if !(c.Rate > 0 && c.Rate <= maxRate) { // so written, NaN is none
		errs = append(errs, fmt.Errorf("--rate %g: want more than 0, at most %d orders per second", c.Rate, maxRate))
	}
	return errors.Join(errs...)
}

// settleTime is how long the sinks get at the end to see what was accepted.
const settleTime = 20 * time.Second

// Summary is the account at the end.
type Summary struct {
	Seconds    float64      `json:"seconds"`
	Ready      float64      `json:"readySeconds"` // from the start until everything was up
	Orders     int          `json:"orders"`
	Accepted   int          `json:"accepted"` // events answered 202
	Lost       int          `json:"lost"`
	Duplicates int          `json:"duplicates"`
	Refused    int          `json:"refusedOrders"` // orders that the mesh did not accept
	Trace      string       `json:"traceId"`       // one order's journey
	Sinks      []SinkReport `json:"sinks"`
}

// Run starts everything, prints where to look, places orders and ends with the
// account. It is an error if anything accepted was lost or seen twice.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	begun := time.Now()
	dir, err := os.MkdirTemp("", "weft-demo-")
	if err != nil {
		return fmt.Errorf("make the demo's data directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // left-overs of a temporary directory harm nobody
	log := slog.New(slog.DiscardHandler)
	if cfg.Verbose {
		log = slog.New(slog.NewTextHandler(cfg.Log, nil))
	}
	w := &world{cfg: cfg, dir: dir, log: log}
	if err := w.open(); err != nil {
		return err
	}
	defer w.close()
	var summary *Summary // nil: stopped before the show began
	stage, over := context.WithCancel(ctx)
	defer over()
	err = run.Stack(stage, append(w.services(), run.Named("show", run.Func(func(ctx context.Context) error {
		if err := w.prepare(ctx); err != nil {
			return err
		}
		summary = &Summary{Ready: time.Since(begun).Seconds()}
		w.show(ctx, summary)
		over()
		<-ctx.Done() // the stack stops from the top
		return nil
	})))...)
	if err != nil || summary == nil {
		return err
	}
	return report(cfg, *summary)
}

// show runs until ctx ends or the time is over, then makes the account.
func (w *world) show(ctx context.Context, s *Summary) {
	if !w.cfg.JSON {
		w.printTable(s.Ready)
	}
	begun := time.Now()
	placing := ctx
	if w.cfg.For > 0 {
		var stop context.CancelFunc
		placing, stop = context.WithTimeout(ctx, w.cfg.For)
		defer stop()
	}
	s.Orders, s.Refused = w.placeOrders(placing)
	w.settle(context.WithoutCancel(ctx))
	s.Seconds = time.Since(begun).Seconds()
	s.Accepted, s.Sinks = w.ledger.report()
	for _, r := range s.Sinks {
		s.Lost += r.Lost
		s.Duplicates += r.Duplicates
	}
	s.Trace = w.example.Load().(string)
	if !w.cfg.JSON {
		w.printJourney(context.WithoutCancel(ctx), s.Trace)
	}
}

// settle waits until every sink has seen what was accepted, but not for ever.
// Events that reactions publish meanwhile are waited for too.
func (w *world) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	quiet := time.Second // reactions to the last events come within this time
	for {
		missing, progress := w.ledger.missing()
		var calm <-chan time.Time
		if missing == 0 {
			calm = time.After(quiet)
		}
		select {
		case <-progress:
		case <-calm:
			return
		case <-ctx.Done():
			return
		}
	}
}

func report(cfg Config, s Summary) error {
	if cfg.JSON {
		enc := json.NewEncoder(cfg.Out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(s); err != nil {
			return err
		}
	} else {
		printSummary(cfg.Out, s)
	}
	if s.Lost > 0 || s.Duplicates > 0 {
		return fmt.Errorf("%d accepted events were lost and %d seen twice", s.Lost, s.Duplicates)
	}
	if s.Accepted == 0 && s.Orders > 0 {
		return errors.New("no event was accepted")
	}
	return nil
}
