package growth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/run"
)

const (
	// apiTimeout bounds one call; just after the start one may get no answer, so
	// it is repeated.
	apiTimeout = 3 * time.Second
	// lookTimeout bounds a look at a stream, which is taken again: without a leader
	// nobody answers. That there is no such stream is said after 500 ms.
	lookTimeout = 1200 * time.Millisecond
	// pause is how long to wait before a call is repeated, and between two looks
	// at replicas.
	pause = 100 * time.Millisecond
	// patience is how long the cluster may go on refusing what it should do: an
	// election takes up to 9 s.
	patience = time.Minute
	// reading is how long a leader may take to find what it has.
	reading = 3 * time.Second
	// attempts is how often a restore that broke off begins again by itself.
	attempts = 3
	// news is how often the log says how far a restore is.
	news = 5 * time.Second
)

// ErrTaken: the cluster has streams already that are not this growth's.
var ErrTaken = errors.New("the cluster has streams of its own")

// Carrier brings the streams of a directory into the cluster.
type Carrier struct {
	obs.Scope
	Conn     *nats.Conn
	Dir      string
	Manifest Manifest
	Replicas int
	// Main is the stream that every site has, Mark the key in its metadata that
	// tells a site's stream from another's.
	Main, Mark string
	Report     Report

	js jetstream.JetStream
}

// Run restores what the cluster does not have yet and returns when all replicas
// are complete. It goes on where an earlier run broke off. Nothing is touched
// that was in the cluster before the growth began.
func (c *Carrier) Run(ctx context.Context) error {
	var err error
	if c.js, err = jetstream.New(c.Conn, jetstream.WithDefaultTimeout(apiTimeout)); err != nil {
		return fmt.Errorf("use jetstream: %w", err)
	}
	finished, err := c.begin(ctx)
	if err != nil || finished {
		return err
	}
	complete, err := c.complete(ctx)
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(c.Manifest.Streams), func(st Stream) bool { return complete[st.Config.Name] })
	if err := c.bring(ctx, left); err != nil {
		return err
	}
	for _, st := range left {
		if err := c.finish(ctx, st); err != nil {
			return fmt.Errorf("copy stream %s to the other nodes: %w", st.Config.Name, err)
		}
	}
	return again(ctx, "open the site", func(ctx context.Context) error {
		err := c.js.DeleteStream(ctx, Gate)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil // the answer to the first try was lost
		}
		return err
	})
}

func (c *Carrier) api() api { return api{c.Conn} }

// begin makes the gate and tells whether the growth has been finished before.
func (c *Carrier) begin(ctx context.Context) (finished bool, err error) {
	err = again(ctx, "begin growth", func(ctx context.Context) error {
		gate, err := c.js.Stream(ctx, Gate)
		if err == nil {
			if m := gate.CachedInfo().Config.Metadata; m["weft.growth"] != c.Manifest.ID {
				return final(fmt.Errorf("%w: node %s is bringing its history into this site already", ErrTaken, m["weft.node"]))
			}
			return nil
		}
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		if finished, err = c.free(ctx); err != nil || finished {
			return err
		}
		_, err = c.js.CreateStream(ctx, jetstream.StreamConfig{
			Name:        Gate,
			Description: "The site grows: its nodes wait until this stream is gone",
			Subjects:    []string{gateSubject},
			Storage:     jetstream.FileStorage,
			Replicas:    c.Replicas,
			Metadata:    map[string]string{"weft.growth": c.Manifest.ID, "weft.node": c.Manifest.Node},
		})
		return err
	})
	return finished, err
}

// free looks whether the cluster has none of the streams. If it has the very
// same main stream, the growth was finished before.
func (c *Carrier) free(ctx context.Context) (finished bool, err error) {
	names := map[string]bool{}
	list := c.js.StreamNames(ctx)
	for name := range list.Name() {
		names[name] = true
	}
	if err := list.Err(); err != nil {
		return false, err
	}
	for _, st := range c.Manifest.Streams {
		name := st.Config.Name
		if !names[name] {
			continue
		}
		if name == c.Main {
			there, err := c.js.Stream(ctx, name)
			if err != nil {
				return false, err
			}
			if mark := st.Config.Metadata[c.Mark]; mark != "" && there.CachedInfo().Config.Metadata[c.Mark] == mark {
				return true, nil
			}
		}
		return false, final(fmt.Errorf("%w: %s is there, and would have to be overwritten", ErrTaken, name))
	}
	return false, nil
}

// complete reads the names of the streams that are complete.
func (c *Carrier) complete(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	err := again(ctx, "read growth", func(ctx context.Context) error {
		gate, err := c.js.Stream(ctx, Gate)
		if err != nil {
			return err
		}
		for seq := uint64(1); seq <= gate.CachedInfo().State.LastSeq; seq++ {
			m, err := gate.GetMsg(ctx, seq)
			if err != nil {
				return err
			}
			out[string(m.Data)] = true
		}
		return nil
	})
	return out, err
}

// bring restores streams, each at one node, and has their copies made. What a
// run that was killed has restored is taken as it is.
func (c *Carrier) bring(ctx context.Context, streams []Stream) error {
	p := Progress{Of: len(streams)}
	for _, st := range streams {
		p.Total += st.State.Bytes
	}
	for i, st := range streams {
		p.Stream, p.Index, p.Bytes, p.Size, p.Done = st.Config.Name, i+1, 0, st.State.Bytes, false
		before := p.All
		there, err := c.whole(ctx, st)
		if err == nil && !there {
			err = c.anew(ctx, st, p)
		}
		if err == nil {
			err = c.spread(ctx, st)
		}
		if err != nil {
			return fmt.Errorf("restore stream %s: %w", p.Stream, err)
		}
		p.Bytes, p.All, p.Done = p.Size, before+p.Size, true
		c.Report(p)
		c.Log.InfoContext(ctx, "stream restored", "stream", p.Stream, "messages", st.State.Msgs, "bytes", st.State.Bytes)
	}
	return nil
}

// anew restores a stream from the start, again if that breaks off.
func (c *Carrier) anew(ctx context.Context, st Stream, p Progress) error {
	for try := 1; ; try++ {
		err := c.clear(ctx, st.Config.Name)
		if err == nil {
			err = c.restore(ctx, st, p)
		}
		if err == nil || ctx.Err() != nil || try == attempts {
			return err
		}
		c.Log.WarnContext(ctx, "stream not restored, trying again", "stream", st.Config.Name, "err", err)
	}
}

// finish waits until a stream has all its copies, and notes that it is complete.
func (c *Carrier) finish(ctx context.Context, st Stream) error {
	if err := c.level(ctx, st); err != nil {
		return err
	}
	if err := c.handOver(ctx, st); err != nil {
		return err
	}
	return again(ctx, "note that it is complete", func(ctx context.Context) error {
		_, err := c.js.Publish(ctx, gateSubject, []byte(st.Config.Name))
		return err
	})
}

// clear removes what a broken restore has left.
func (c *Carrier) clear(ctx context.Context, name string) error {
	return again(ctx, "remove a half restored stream", func(ctx context.Context) error {
		err := c.js.DeleteStream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err == nil {
			c.Log.InfoContext(ctx, "half restored stream removed", "stream", name)
		}
		return err
	})
}

// whole tells whether the stream is there with all it should have. A leader that
// was just elected may still be reading, so it is asked for a while; a stream that
// gets no leader for as long as an election may take is none.
func (c *Carrier) whole(ctx context.Context, st Stream) (bool, error) {
	start, led := time.Now(), time.Time{}
	for ; ctx.Err() == nil; run.Pause(ctx, pause) {
		at, err := c.look(ctx, st)
		switch {
		case err == nil && at.none:
			return false, nil
		case err == nil && at.leader != "" && at.missing == "":
			return true, nil
		case err == nil && at.leader != "" && led.IsZero():
			led = time.Now()
		}
		if !led.IsZero() && time.Since(led) > reading || time.Since(start) > patience/4 {
			return false, nil
		}
	}
	return false, ctx.Err()
}

// spread has a stream, which is complete at one node, copied to the others. Only
// a stream that is made larger tells when that is done: in one that is restored
// by several nodes at once, replicas count as current that have nothing yet.
//
// The consumers must be there before: what is not known to the cluster when the
// stream gets its copies is copied without its state.
func (c *Carrier) spread(ctx context.Context, st Stream) error {
	for until := time.Now().Add(patience); ; run.Pause(ctx, pause/10) {
		at, err := c.look(ctx, st)
		if err == nil && !at.none && at.missing == "" && at.leader != "" {
			break
		}
		if ctx.Err() != nil || time.Now().After(until) {
			return cmp.Or(ctx.Err(), err, errors.New("it is not complete: "+at.missing))
		}
	}
	cfg := st.Config
	cfg.Replicas = c.Replicas
	return again(ctx, "have it copied to other nodes", func(ctx context.Context) error {
		var resp answer
		if err := c.api().call(ctx, "$JS.API.STREAM.UPDATE."+cfg.Name, cfg, &resp); err != nil {
			return err
		}
		return resp.err()
	})
}

// level waits until all nodes have all of a stream.
func (c *Carrier) level(ctx context.Context, st Stream) error {
	next, until := time.Now().Add(news), time.Now().Add(patience)
	for ; ctx.Err() == nil; run.Pause(ctx, pause) {
		at, err := c.look(ctx, st)
		switch {
		case err == nil && at.missing == "" && at.waits == "" && at.replicas == c.Replicas:
			return nil
		case err == nil && at.missing != "" && at.leader != "" && time.Now().After(until):
			return errors.New(at.missing) // what the leader misses comes soon or never
		}
		if time.Now().After(next) {
			next = time.Now().Add(news)
			c.Log.InfoContext(ctx, "waiting for the copies of a restored stream", "stream", st.Config.Name,
				"replicas", at.replicas, "waits", at.waits, "missing", at.missing, "err", err)
		}
	}
	return ctx.Err()
}

// condition is how a restored stream is.
type condition struct {
	none     bool   // it is not there
	missing  string // what it should have and has not
	waits    string // what is not done yet of its copies
	leader   string
	replicas int
}

// look asks for a stream's condition.
func (c *Carrier) look(ctx context.Context, st Stream) (condition, error) {
	var at condition
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	name := st.Config.Name
	var info struct {
		answer
		server.StreamInfo
	}
	err := c.api().call(ctx, fmt.Sprintf(server.JSApiStreamInfoT, name), struct{}{}, &info)
	switch {
	case err != nil:
		return at, err
	case info.Error != nil && info.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		at.none = true
		return at, nil
	case info.Error != nil:
		return at, info.Error
	}
	at.replicas = info.Config.Replicas
	at.leader, at.waits = c.copies(info.Cluster)
	if info.State.LastSeq < st.State.LastSeq {
		at.missing = fmt.Sprintf("it ends at %d, want %d", info.State.LastSeq, st.State.LastSeq)
		return at, nil
	}
	for _, consumer := range st.Consumers {
		missing, waits, err := c.lookConsumer(ctx, name, consumer)
		if err != nil || missing != "" {
			at.missing = missing
			return at, err
		}
		at.waits = cmp.Or(at.waits, waits)
	}
	return at, nil
}

// lookConsumer tells what is not there of a consumer, and what its copies wait for.
func (c *Carrier) lookConsumer(ctx context.Context, stream string, want Consumer) (missing, waits string, err error) {
	var info struct {
		answer
		server.ConsumerInfo
	}
	if err := c.api().call(ctx, fmt.Sprintf(server.JSApiConsumerInfoT, stream, want.Name), struct{}{}, &info); err != nil {
		return "", "", err
	}
	switch {
	case info.Error != nil && info.Error.ErrorCode == jetstream.JSErrCodeConsumerNotFound:
		return "consumer " + want.Name, "", nil
	case info.Error != nil:
		return "", "", info.Error
	case info.Delivered.Stream < want.Delivered || info.AckFloor.Stream < want.Acked:
		return fmt.Sprintf("consumer %s is at %d and %d, want %d and %d", want.Name, info.Delivered.Stream, info.AckFloor.Stream, want.Delivered, want.Acked), "", nil
	case info.Config != nil && info.Config.Replicas > 0:
		return "", "", nil // it says itself how many copies it wants
	}
	if _, waits = c.copies(info.Cluster); waits != "" {
		waits = "consumer " + want.Name + ": " + waits
	}
	return "", waits, nil
}

// copies tells who leads a stream or a consumer, and what its copies wait for.
func (c *Carrier) copies(cl *server.ClusterInfo) (leader, waits string) {
	switch {
	case cl == nil || cl.Leader == "":
		return "", "no leader"
	case cl.Desired != nil && cl.Desired.Status != nil:
		return cl.Leader, cl.Desired.Status.Description
	case cl.Desired != nil:
		return cl.Leader, "copies are being made"
	case len(cl.Replicas) != c.Replicas-1:
		return cl.Leader, fmt.Sprintf("%d copies, want %d", len(cl.Replicas)+1, c.Replicas)
	}
	for _, r := range cl.Replicas {
		if !r.Current || r.Offline || r.Pending {
			return cl.Leader, "node " + r.Name
		}
	}
	return cl.Leader, ""
}

// handOver lets another node lead a stream whose window for duplicates reaches
// back before the growth: the replica that was restored does not know the ids of
// the messages in it, those that copied it do.
func (c *Carrier) handOver(ctx context.Context, st Stream) error {
	if c.Replicas == 1 || time.Since(st.State.LastTime) > st.Config.Duplicates || st.State.Msgs == 0 {
		return nil
	}
	at, err := c.look(ctx, st)
	if err != nil {
		return err
	}
	restored := at.leader
	return again(ctx, "hand the lead over", func(ctx context.Context) error {
		var resp answer
		if err := c.api().call(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+st.Config.Name, struct{}{}, &resp); err != nil {
			return err
		}
		for ; ctx.Err() == nil; run.Pause(ctx, pause) { // an election takes up to 9 s
			if at, err := c.look(ctx, st); err == nil && at.waits == "" && at.leader != restored {
				return nil
			}
		}
		return errors.Join(resp.err(), ctx.Err())
	})
}

// again repeats a call that the cluster does not answer or cannot serve yet, up
// to patience.
func again(ctx context.Context, operation string, do func(context.Context) error) error {
	for until := time.Now().Add(patience); ; run.Pause(ctx, pause) {
		own, cancel := context.WithTimeout(ctx, 5*apiTimeout)
		err := do(own)
		cancel()
		var end finalError
		var refused *jetstream.APIError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &end):
			return end.error
		case errors.As(err, &refused) && refused.Code < 500 && !passing(refused.ErrorCode),
			ctx.Err() != nil, time.Now().After(until):
			return fmt.Errorf("%s: %w", operation, err)
		}
	}
}

// passing: what the server says while a cluster forms: not enough peers (10005,
// 10074), no resources (10023), or the stream has just been made (10058).
func passing(code jetstream.ErrorCode) bool {
	return slices.Contains([]jetstream.ErrorCode{10005, 10023, 10058, 10074}, code)
}

// finalError is not tried again.
type finalError struct{ error }

func final(err error) error { return finalError{err} }
