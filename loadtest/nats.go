package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsStream is the stream the scenario makes, and removes, on each server.
const natsStream = "LOAD_NATS"

// NATSConfig is the scenario "nats": plain NATS clients publish to a stream of
// their own, with acknowledgements, on a node's NATS listener and on a second
// server in turns. It shows what embedding costs.
type NATSConfig struct {
	Load
	URL, Compare string // nats:// addresses
	Outstanding  int    // publishes that wait for their acknowledgement, on each connection
	Rounds       int    // alternating rounds, sharing Duration and Warmup
}

// DefaultNATS is 4 connections with 64 publishes outstanding each.
func DefaultNATS() NATSConfig {
	return NATSConfig{
		Load: Load{Duration: 20 * time.Second, Warmup: 2 * time.Second, Size: 256, Connections: 4},
		URL:  "nats://127.0.0.1:4222", Outstanding: 64, Rounds: 5,
	}
}

// Validate names every setting that cannot work.
func (c NATSConfig) Validate() error {
	load := c.Load
	load.Server = "http://unused" // this scenario speaks NATS
	return errors.Join(
		load.validate(),
		check(strings.HasPrefix(c.URL, "nats://"), "nats", "a URL such as nats://127.0.0.1:4222"),
		check(strings.HasPrefix(c.Compare, "nats://"), "compare", "the nats:// URL of a second server"),
		check(c.Outstanding > 0 && c.Outstanding <= 4096, "outstanding", "1 to 4096"),
		check(c.Rounds > 0 && c.Rounds <= 100, "rounds", "1 to 100"),
	)
}

// NATS runs the scenario. When ctx ends early the report covers the time until then.
func NATS(ctx context.Context, cfg NATSConfig, progress io.Writer) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	urls := [2]string{cfg.URL, cfg.Compare}
	sides := [2]*side{{latency: newHistogram()}, {latency: newHistogram()}}
	var ratios []float64
	for round := 0; round < cfg.Rounds && ctx.Err() == nil; round++ {
		var rates [2]float64
		for turn := range 2 {
			i := (turn + round) % 2
			rate, err := cfg.round(ctx, urls[i], sides[i])
			if err != nil {
				return Report{}, fmt.Errorf("load nats: %s: %w", urls[i], err)
			}
			rates[i] = rate
			if progress != nil {
				fmt.Fprintf(progress, "nats %s %8.0f messages/s\n", urls[i], rate)
			}
		}
		ratios = append(ratios, rates[0]/max(rates[1], 1e-9))
	}
	a, b := sides[0], sides[1]
	theirs, ours := b.latency.summary(), a.latency.summary()
	return Report{
		Scenario: "nats", Run: newRun(), Server: cfg.URL, Seconds: a.seconds, Accepted: a.accepted, Rate: a.rate(), Latency: ours,
		Settings: []Setting{
			{"connections", strconv.Itoa(cfg.Connections)},
			{"outstanding", strconv.Itoa(cfg.Outstanding)},
			{"size", fmt.Sprintf("%d B", cfg.Size)},
			{"rounds", strconv.Itoa(cfg.Rounds)},
		},
		Compare: &Comparison{
			Server: cfg.Compare, Accepted: b.accepted, Rate: b.rate(), Latency: theirs, MeasuredIn: b.seconds,
			Ratio: a.rate() / max(b.rate(), 1e-9), P50Ratio: ours.P50 / max(theirs.P50, 1e-9), Rounds: ratios,
		},
	}, nil
}

// round publishes to one server and adds what it measured to a side.
func (c NATSConfig) round(ctx context.Context, url string, to *side) (rate float64, err error) {
	var streams []jetstream.JetStream
	for range c.Connections {
		nc, err := nats.Connect(url, nats.Name("weft load nats"))
		if err != nil {
			return 0, err
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return 0, err
		}
		streams = append(streams, js)
	}
	// The same stream on both: a file, one replica.
	_, err = streams[0].CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: natsStream, Subjects: []string{"load.nats"}, Storage: jetstream.FileStorage})
	if err != nil {
		return 0, err
	}
	defer func() {
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		err = errors.Join(err, streams[0].DeleteStream(own, natsStream))
	}()
	begin := time.Now().Add(c.Warmup / time.Duration(c.Rounds))
	end := begin.Add(c.Duration / time.Duration(c.Rounds))
	own, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	data := make([]byte, c.Size)
	var publishing sync.WaitGroup
	var mu sync.Mutex // guards what follows
	var accepted uint64
	var failed error
	for _, js := range streams {
		for range c.Outstanding {
			publishing.Go(func() {
				n, latency, err := publishUntil(own, js, data, begin)
				mu.Lock()
				defer mu.Unlock()
				accepted += n
				to.latency.merge(latency)
				failed = errors.Join(failed, err)
			})
		}
	}
	publishing.Wait()
	seconds := time.Since(begin).Seconds()
	to.accepted += accepted
	to.seconds += seconds
	return float64(accepted) / seconds, failed
}

// publishUntil publishes one message after the other until ctx ends, and counts
// those acknowledged after begin.
func publishUntil(ctx context.Context, js jetstream.JetStream, data []byte, begin time.Time) (n uint64, latency *histogram, err error) {
	latency = newHistogram()
	for ctx.Err() == nil {
		start := time.Now()
		if _, err := js.Publish(ctx, "load.nats", data); err != nil {
			if ctx.Err() != nil {
				return n, latency, nil
			}
			return n, latency, err
		}
		if start.After(begin) {
			n++
			latency.record(time.Since(start))
		}
	}
	return n, latency, nil
}
