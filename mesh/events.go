package mesh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/mesh/transfer"
)

const (
	eventsStream  = bus.Stream
	captureStream = "WEFT_CAPTURE"
	// dedupeWindow is how long an event published again is recognised. A stream
	// with sources has none unless it is set.
	dedupeWindow = 2 * time.Minute
	// apiTimeout bounds one JetStream call; just after the start one may get no
	// answer, so callers repeat it.
	apiTimeout = 3 * time.Second
	// startTimeout is that of a first question, which may come too early.
	startTimeout = 250 * time.Millisecond
)

// ensureEvents makes the site's stream or brings it to the configuration.
func (n *Node) ensureEvents(ctx context.Context) error {
	if err := n.ensureCapture(ctx); err != nil {
		return err
	}
	cfg := jetstream.StreamConfig{
		Name:        eventsStream,
		Description: "Events of site " + n.Site + " and of the sites linked to it",
		Subjects:    []string{"ev." + n.Site + ".>", transfer.Staged + ">", "weft.off.>"},
		// Links store the events of other sites; clients cannot.
		SubjectTransform: &jetstream.SubjectTransformConfig{Source: transfer.Staged + ">", Destination: "ev.>"},
		Retention:        jetstream.LimitsPolicy,
		Storage:          jetstream.FileStorage,
		Replicas:         n.cfg.Replicas(),
		MaxAge:           n.cfg.Events.MaxAge.Std(),
		MaxBytes:         n.cfg.Events.MaxBytes.Bytes(),
		Duplicates:       dedupeWindow,
		AllowDirect:      true, AllowAtomicPublish: true, AllowRollup: true, AllowMsgTTL: true,
		Metadata: map[string]string{"weft.site": n.Site},
	}
	for wait := startTimeout; ; wait = min(2*wait, apiTimeout) {
		err := n.putEvents(ctx, cfg, wait)
		var refused *jetstream.APIError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil || errors.As(err, &refused) && refused.Code < 500 && !passing(refused.ErrorCode):
			return fmt.Errorf("make stream %s: %w", eventsStream, err)
		}
		run.Pause(ctx, 50*time.Millisecond)
	}
}

// passing: what the server says while a cluster forms: not enough peers (10005,
// 10074), no resources (10023), or another node has just made it (10058).
func passing(code jetstream.ErrorCode) bool {
	return slices.Contains([]jetstream.ErrorCode{10005, 10023, 10058, 10074}, code)
}

// putEvents makes or adapts the stream once, waiting that long for an answer:
// while the cluster has no leader yet nobody answers.
func (n *Node) putEvents(ctx context.Context, cfg jetstream.StreamConfig, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	js := n.bus.JetStream()
	old, err := js.Stream(ctx, eventsStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		// Not in the caller's map: if another node makes the stream first, its epoch stays.
		cfg.Metadata = maps.Clone(cfg.Metadata)
		cfg.Metadata[bus.MetaEpoch] = strings.ToLower(rand.Text()[:10])
		cfg.Sources = n.captureSource()
		_, err = js.CreateStream(ctx, cfg)
		return err
	case err != nil:
		return err
	}
	was := old.CachedInfo().Config
	meta := maps.Clone(was.Metadata) // holds the epoch
	maps.Copy(meta, cfg.Metadata)
	cfg.Metadata = meta
	cfg.Sources = n.captureSource()
	_, err = js.UpdateStream(ctx, cfg) // no change if all is as it was
	return err
}

// ensureCapture keeps the stream that takes the messages of native NATS clients
// on subjects of their own. EVENTS draws them from there under ev.<site>., and
// what it has drawn is removed, so that nothing is drawn twice.
func (n *Node) ensureCapture(ctx context.Context) error {
	left := n.drainCapture(ctx)
	if left > 0 {
		n.Log.ErrorContext(ctx, "captured messages are left behind: no configured subject takes them", "stream", captureStream, "messages", left)
	}
	if len(n.cfg.Events.Capture) == 0 {
		if left > 0 {
			return nil // they are kept
		}
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		err := n.bus.JetStream().DeleteStream(ctx, captureStream)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			n.Log.WarnContext(ctx, "capture stream not removed", "err", err)
		}
		return nil
	}
	_, err := n.bus.EnsureStream(ctx, jetstream.StreamConfig{
		Name:        captureStream,
		Description: "Messages of native NATS clients on their way into " + eventsStream,
		Subjects:    n.cfg.Events.Capture,
		Retention:   jetstream.WorkQueuePolicy,
		Storage:     jetstream.FileStorage,
		Replicas:    n.cfg.Replicas(),
		MaxBytes:    min(n.cfg.Events.MaxBytes.Bytes(), 1<<30),
		Discard:     jetstream.DiscardNew, // a client with an ack learns that the site is full
		Duplicates:  dedupeWindow,
	})
	return err
}

// drainCapture lets EVENTS take what was captured under another configuration
// before that is changed: its source knows the old subjects alone. It waits as
// long as EVENTS goes on taking and returns how many messages it leaves.
func (n *Node) drainCapture(ctx context.Context) (left uint64) {
	const patience = 15 * time.Second // without progress: the server looks for the source again after 10 s
	for until := time.Now().Add(patience); ctx.Err() == nil && time.Now().Before(until); run.Pause(ctx, 20*time.Millisecond) {
		call, cancel := context.WithTimeout(ctx, startTimeout)
		s, err := n.bus.JetStream().Stream(call, captureStream)
		cancel()
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return 0
		}
		if err != nil {
			until = time.Now().Add(patience) // just after the start there may be no answer
			continue
		}
		info := s.CachedInfo()
		if info.State.Msgs == 0 || slices.Equal(info.Config.Subjects, n.cfg.Events.Capture) {
			return 0
		}
		if info.State.Msgs != left {
			left, until = info.State.Msgs, time.Now().Add(patience)
		}
	}
	return left
}

// captureSource is how EVENTS draws from the capture stream.
func (n *Node) captureSource() []*jetstream.StreamSource {
	if len(n.cfg.Events.Capture) == 0 {
		return nil
	}
	src := &jetstream.StreamSource{Name: captureStream}
	for _, p := range n.cfg.Events.Capture {
		src.SubjectTransforms = append(src.SubjectTransforms, jetstream.SubjectTransformConfig{Source: p, Destination: captured(n.Site, p)})
	}
	return []*jetstream.StreamSource{src}
}

// captured is the transform's destination: * becomes $1, $2, …
func captured(site, pattern string) string {
	tokens := strings.Split(pattern, ".")
	wild := 0
	for i, t := range tokens {
		if t == "*" {
			wild++
			tokens[i] = fmt.Sprintf("{{wildcard(%d)}}", wild)
		}
	}
	return "ev." + site + "." + strings.Join(tokens, ".")
}
