package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/run"
)

const (
	// stateBucket keeps, for each peer, its progress (link.<peer>) and the count of
	// what it has lost (guard.<peer>).
	stateBucket = "weft_state"
	// guardEvery is how often progress is stored and the stream is looked at.
	guardEvery = 2 * time.Second
	// quietAfter is how long a peer takes nothing until what was sent last counts
	// as all that was sent.
	quietAfter = 5 * time.Second
	// Below these shares of the retention a lagging peer is worth a warning, an error.
	HeadroomLow, HeadroomCritical = 0.25, 0.1
	// surveyTries bounds attempts to look at a stream between two arrivals of wanted
	// events; surveyPause is between two.
	surveyTries, surveyPause = 25, 10 * time.Millisecond
)

// Retention is how long the stream keeps events: whichever limit is reached
// first; 0: no such limit.
type Retention struct {
	MaxAge   time.Duration
	MaxBytes int64
}

// progress is how far the peer has come. The node that serves its sessions
// stores it, so that the next start knows it, and the node that leads.
type progress struct {
	Epoch    string   `json:"epoch"`
	Subjects []string `json:"subjects"` // the peer wants
	Base     uint64   `json:"base"`     // sequence after which Count begins
	Acked    uint64   `json:"acked"`    // the peer has stored all up to here
	Sent     uint64   `json:"sent"`     // and was sent all up to here
	Count    uint64   `json:"count"`    // events sent after Base
}

// tally counts what the peer wants and what of it was removed unread.
type tally struct {
	Epoch    string   `json:"epoch"`
	Subjects []string `json:"subjects"`
	Base     uint64   `json:"base"`   // as in progress
	UpTo     uint64   `json:"upTo"`   // counted up to here
	Stored   uint64   `json:"stored"` // wanted events ever stored in (Base, UpTo]
	Lost     uint64   `json:"lost"`   // of these
	Acked    uint64   `json:"acked"`  // as in progress, when it was counted
	Doubt    bool     `json:"doubt"`  // unread ones may be gone that are not in Lost yet
	Total    uint64   `json:"total"`  // lost, before Base too
}

// resume notes that a session begins behind after. What was sent and did not
// arrive is taken back. Called with mu held.
func (x *Exporter) resume(epoch string, after uint64, subjects []string) (known bool) {
	p := &x.progress
	known = p.Epoch == epoch && slices.Equal(p.Subjects, subjects) && p.Acked <= after && after <= p.Sent &&
		(after == p.Sent || len(x.flight) > 0)
	if !known {
		*p = progress{Epoch: epoch, Subjects: subjects, Base: after, Acked: after, Sent: after}
	}
	for _, seq := range x.flight {
		if known && seq > after {
			p.Count--
		}
	}
	p.Acked, p.Sent, x.flight = after, after, nil
	return known
}

// dispatched and arrived note what goes out and what the peer has. What is passed
// over, such as the peer's own events, is in neither: the peer's position is that
// of the last event it took. Called with mu held.
func (x *Exporter) dispatched(seqs []uint64) {
	x.flight = append(x.flight, seqs...)
	x.progress.Sent = seqs[len(seqs)-1]
	x.progress.Count += uint64(len(seqs))
}

func (x *Exporter) arrived(upTo uint64) {
	x.progress.Acked = max(x.progress.Acked, min(upTo, x.progress.Sent))
	n, _ := slices.BinarySearch(x.flight, upTo+1)
	x.flight = x.flight[n:]
}

// Guard watches, until ctx ends, how close the stream comes to removing what the
// peer has not read, and counts what it has removed. Every node runs it; the one
// that is Active judges.
func (x *Exporter) Guard(ctx context.Context) {
	for ctx.Err() == nil {
		err := x.save(ctx)
		if err == nil && x.Active() {
			err = x.watch(ctx)
		} else {
			x.note(func(s *ExportState) { s.Guarded = false })
		}
		if err != nil && ctx.Err() == nil {
			x.Log.DebugContext(ctx, "retention not compared with a linked site's progress", "site", x.Peer, "err", err)
		}
		run.Pause(ctx, guardEvery)
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), guardEvery)
	defer cancel()
	if err := x.save(own); err != nil {
		x.Log.DebugContext(ctx, "progress of a linked site not stored", "site", x.Peer, "err", err)
	}
}

func (x *Exporter) note(change func(*ExportState)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change(&x.state)
}

// bucket makes the bucket, replicated as the stream is.
func (x *Exporter) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	x.kvMu.Lock()
	defer x.kvMu.Unlock()
	if x.kv != nil {
		return x.kv, nil
	}
	s, err := x.Bus.JetStream().Stream(ctx, bus.Stream)
	if err != nil {
		return nil, fmt.Errorf("read stream state: %w", err)
	}
	x.kv, err = x.Bus.EnsureKV(ctx, jetstream.KeyValueConfig{
		Bucket: stateBucket, Replicas: s.CachedInfo().Config.Replicas,
	})
	return x.kv, err
}

// fetch reads a value of the bucket; a missing one leaves v as it is.
func (x *Exporter) fetch(ctx context.Context, key string, v any) (at time.Time, err error) {
	kv, err := x.bucket(ctx)
	if err != nil {
		return at, err
	}
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return at, nil
	}
	if err != nil {
		return at, fmt.Errorf("read %s: %w", key, err)
	}
	if err := json.Unmarshal(e.Value(), v); err != nil {
		return at, fmt.Errorf("read %s: %w", key, err)
	}
	return e.Created(), nil
}

func (x *Exporter) put(ctx context.Context, key string, v any) error {
	kv, err := x.bucket(ctx)
	if err != nil {
		return err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if _, err := kv.Put(ctx, key, data); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// load takes over what is stored, unless this node knows better.
func (x *Exporter) load(ctx context.Context) error {
	var stored progress
	if _, err := x.fetch(ctx, "link."+x.Peer, &stored); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if reflect.DeepEqual(x.progress, x.saved) && !reflect.DeepEqual(stored, x.saved) {
		x.progress, x.saved, x.flight = stored, stored, nil
	}
	return nil
}

// save stores the progress of sessions that this node serves.
func (x *Exporter) save(ctx context.Context) error {
	x.mu.Lock()
	now := x.progress
	same := reflect.DeepEqual(now, x.saved)
	x.mu.Unlock()
	if same {
		return nil
	}
	if err := x.put(ctx, "link."+x.Peer, now); err != nil {
		return err
	}
	x.mu.Lock()
	x.saved = now
	x.mu.Unlock()
	return nil
}

// watch compares the stream with the peer's progress.
func (x *Exporter) watch(ctx context.Context) error {
	var p progress
	at, err := x.fetch(ctx, "link."+x.Peer, &p)
	if err != nil || p.Epoch == "" {
		return err
	}
	var was tally
	if _, err := x.fetch(ctx, "guard."+x.Peer, &was); err != nil {
		return err
	}
	t := was
	if t.Epoch != p.Epoch || t.Base != p.Base || !slices.Equal(t.Subjects, p.Subjects) {
		t = tally{Epoch: p.Epoch, Subjects: p.Subjects, Base: p.Base, UpTo: p.Base, Acked: p.Base, Total: was.Total}
	}
	v, err := x.survey(ctx, p, t.UpTo)
	if err != nil {
		return err
	}
	t.UpTo = v.info.Last
	// What was stored before the first count of it is at least what is known of it.
	t.Stored = max(t.Stored+v.fresh, p.Count+v.unsent)
	lost := t.Lost
	switch unread := v.info.First > t.Acked+1; {
	case !unread && !t.Doubt:
		// Nothing unread is gone, whatever the counts say: replicas and the stored
		// progress may be a moment behind each other. The count begins here.
		t.Stored = p.Count + v.unsent + t.Lost
	case p.Sent+1 >= v.info.First || time.Since(at) > quietAfter:
		lost, t.Doubt = max(lost, t.Stored-p.Count-v.unsent), unread
	default:
		// While a session runs past what is removed, more was sent than is known here.
		t.Doubt = true
	}
	t.Acked = p.Acked
	news := lost - t.Lost
	t.Lost, t.Total = lost, t.Total+news
	if !reflect.DeepEqual(t, was) {
		if err := x.put(ctx, "guard."+x.Peer, t); err != nil {
			return err
		}
	}
	if news > 0 {
		x.Log.ErrorContext(ctx, "events were removed before a linked site took them: retention is shorter than the cut",
			"site", x.Peer, "lost", news, "total", t.Total)
		if x.Lost != nil {
			x.Lost(news)
		}
	}
	x.judge(ctx, v, t.Total)
	return nil
}

// survey is the stream at one moment.
type survey struct {
	info   bus.StreamInfo
	fresh  uint64  // wanted events not counted before
	unsent uint64  // wanted events behind what was sent
	lag    uint64  // and behind what has arrived
	oldest bus.Raw // the first of the latter
}

// survey counts wanted events up to the stream's end between two arrivals of
// such events: what else the stream takes meanwhile does not matter.
func (x *Exporter) survey(ctx context.Context, p progress, counted uint64) (survey, error) {
	for range surveyTries {
		before, err := x.Bus.Info(ctx)
		if err != nil {
			return survey{}, err
		}
		if before.Epoch != p.Epoch {
			return survey{}, errors.New("the stream was made anew, and the site has not asked since")
		}
		v := survey{info: before}
		var late [2]uint64 // behind the end that was read
		for _, count := range []struct {
			of    *uint64
			after uint64
		}{{&late[0], before.Last}, {&v.fresh, counted}, {&v.unsent, p.Sent}, {&v.lag, p.Acked}, {&late[1], before.Last}} {
			first, err := x.wanted(ctx, p.Subjects, count.after, count.of)
			if err != nil {
				return survey{}, err
			}
			if count.of == &v.lag {
				v.oldest = first
			}
		}
		after, err := x.Bus.Info(ctx)
		if err != nil {
			return survey{}, err
		}
		if late[0] == late[1] && before.First == after.First && min(v.fresh, v.unsent, v.lag) >= late[0] {
			v.fresh, v.unsent, v.lag = v.fresh-late[0], v.unsent-late[0], v.lag-late[0]
			return v, nil
		}
		run.Pause(ctx, surveyPause)
	}
	return survey{}, errors.New("the stream does not stand still")
}

// wanted counts the events behind a sequence that the peer wants, and returns the
// first of them.
func (x *Exporter) wanted(ctx context.Context, subjects []string, after uint64, count *uint64) (oldest bus.Raw, err error) {
	for _, subject := range subjects {
		n, first, err := x.Bus.Behind(ctx, subject, after)
		if err != nil {
			return oldest, err
		}
		if rest, all := strings.CutPrefix(subject, meshPrefix+"*."); all && n > 0 {
			own, _, err := x.Bus.Behind(ctx, meshPrefix+x.Peer+"."+rest, after)
			if err != nil {
				return oldest, err
			}
			n -= min(n, own) // they do not cross
		}
		*count += n
		if n > 0 && (oldest.Seq == 0 || first.Seq < oldest.Seq) {
			oldest = first
		}
	}
	return oldest, nil
}

// judge makes the headroom visible and tells when it runs low.
func (x *Exporter) judge(ctx context.Context, v survey, total uint64) {
	room := 1.0
	if v.lag > 0 {
		if x.Keep.MaxAge > 0 {
			room = min(room, 1-float64(time.Since(v.oldest.At))/float64(x.Keep.MaxAge))
		}
		if x.Keep.MaxBytes > 0 {
			// The oldest go first, so those from there on must fit.
			share := float64(v.info.Last-v.oldest.Seq+1) / float64(v.info.Last-v.info.First+1)
			room = min(room, 1-share*float64(v.info.Bytes)/float64(x.Keep.MaxBytes))
		}
		room = max(room, 0)
	}
	x.note(func(s *ExportState) {
		s.Guarded, s.Headroom, s.Lost = true, room, total
		if !s.Session {
			s.Pending = v.lag
		}
	})
	level := 0
	switch {
	case room < HeadroomCritical:
		level = 2
	case room < HeadroomLow:
		level = 1
	}
	if level == x.level {
		return
	}
	x.level = level
	args := []any{"site", x.Peer, "headroom", room, "waiting", v.lag}
	switch level {
	case 2:
		x.Log.ErrorContext(ctx, "events are about to be removed before a linked site takes them", args...)
	case 1:
		x.Log.WarnContext(ctx, "a linked site has used most of the retention", args...)
	default:
		x.Log.InfoContext(ctx, "a linked site is within the retention again", args...)
	}
}
