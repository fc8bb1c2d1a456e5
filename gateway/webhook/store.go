package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook/lane"
)

// Names of the site's stores. Retries: weft.retry.s.<endpoint>.<seq> holds the
// one stored retry of a delivery until its time, weft.retry.r.<endpoint> is
// where it falls due. Attempts: one message per flush with many attempts.
const (
	bucketEndpoints = "weft_webhooks"
	bucketState     = "weft_state"
	stateKey        = "webhook." // + endpoint id
	leaseKey        = "webhook-lease"
	streamRetry     = "WEFT_RETRY"
	subjectStored   = "weft.retry.s."
	subjectDue      = "weft.retry.r."
	streamAttempts  = "WEFT_ATTEMPTS"
	subjectAttempts = "weft.attempts"

	attemptsAge   = 7 * 24 * time.Hour
	attemptsBytes = 1 << 30 // the log is for people; recovery needs its last minutes only
)

// stores are the streams and buckets of the service and, in memory, the
// endpoints and states in them.
type stores struct {
	log       *slog.Logger
	js        jetstream.JetStream
	endpoints jetstream.KeyValue
	state     jetstream.KeyValue
	retry     jetstream.Stream
	attempts  jetstream.Stream

	synced chan struct{} // closed when the endpoints of the bucket are known

	mu      sync.RWMutex // guards byID, states, changed
	byID    map[string]*endpoint
	states  map[string]state
	changed func(old, now *endpoint) // the delivering engine; nil elsewhere
}

// state is what is stored of an endpoint's delivery.
type state struct {
	lane.State
	Reason   string    `json:"reason,omitempty"` // why it is disabled
	ReplayID string    `json:"replayId,omitempty"`
	Enabled  int       `json:"enabled,omitempty"` // the endpoint's count when last seen
	Dead     uint64    `json:"dead,omitempty"`    // events given up
	LastDead *deadNote `json:"lastDead,omitempty"`
	Expired  uint64    `json:"expired,omitempty"` // stream positions that retention took before they were read
}

// deadNote names the last event given up.
type deadNote struct {
	Event  string    `json:"event"`
	Seq    uint64    `json:"seq"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

func openStores(ctx context.Context, js jetstream.JetStream, d Deps) (*stores, error) {
	st := &stores{
		log: d.Log, js: js, synced: make(chan struct{}),
		byID: map[string]*endpoint{}, states: map[string]state{},
	}
	var err error
	if st.endpoints, err = bucket(ctx, js, bucketEndpoints, d.Replicas); err != nil {
		return nil, err
	}
	if st.state, err = bucket(ctx, js, bucketState, d.Replicas); err != nil {
		return nil, err
	}
	// No size limit: discarding old messages would drop retries. The number is
	// bounded by lane.Limits.Scheduled per endpoint.
	st.retry, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: streamRetry, Subjects: []string{subjectStored + "*.*", subjectDue + "*"},
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Replicas: d.Replicas,
		AllowMsgSchedules: true, AllowDirect: true,
	})
	if err != nil {
		return nil, fmt.Errorf("create stream %s: %w", streamRetry, err)
	}
	st.attempts, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: streamAttempts, Subjects: []string{subjectAttempts},
		Storage: jetstream.FileStorage, Replicas: d.Replicas, Compression: jetstream.S2Compression,
		MaxAge: attemptsAge, MaxBytes: attemptsBytes, AllowDirect: true,
	})
	if err != nil {
		return nil, fmt.Errorf("create stream %s: %w", streamAttempts, err)
	}
	return st, nil
}

// bucket opens a bucket that other roles may have made, or makes it.
func bucket(ctx context.Context, js jetstream.JetStream, name string, replicas int) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: name, Replicas: replicas, Storage: jetstream.FileStorage})
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	return kv, nil
}

// watch follows both buckets until ctx ends; lost watches are opened again.
func (st *stores) watch(ctx context.Context) {
	var once sync.Once
	for ctx.Err() == nil {
		err := st.watchOnce(ctx, func() { once.Do(func() { close(st.synced) }) })
		if ctx.Err() != nil {
			return
		}
		st.log.WarnContext(ctx, "webhook endpoint watch interrupted", "err", err)
		pause(ctx, time.Second)
	}
}

func (st *stores) watchOnce(ctx context.Context, synced func()) error {
	endpoints, err := st.endpoints.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", bucketEndpoints, err)
	}
	defer func() { _ = endpoints.Stop() }()
	states, err := st.state.Watch(ctx, stateKey+"*")
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", bucketState, err)
	}
	defer func() { _ = states.Stop() }()
	initial := 2
	seen := map[string]bool{}
	for {
		var e jetstream.KeyValueEntry
		var ok bool
		select {
		case e, ok = <-endpoints.Updates():
			if ok && e != nil {
				seen[e.Key()] = true
				st.noteEndpoint(e)
			} else if ok {
				st.dropUnseen(seen)
			}
		case e, ok = <-states.Updates():
			if ok && e != nil {
				st.noteState(e)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if !ok {
			return errors.New("watch ended")
		}
		if e == nil {
			if initial--; initial == 0 {
				synced()
			}
		}
	}
}

func (st *stores) noteEndpoint(e jetstream.KeyValueEntry) {
	if e.Operation() != jetstream.KeyValuePut {
		st.apply(e.Key(), nil, e.Revision())
		return
	}
	ep, err := decodeEndpoint(e.Value(), e.Revision())
	if err != nil {
		st.log.Error("webhook endpoint unreadable", "endpoint", e.Key(), "err", err)
		return
	}
	st.apply(ep.ID, ep, ep.revision)
}

// dropUnseen removes endpoints that were deleted while no watch was open.
func (st *stores) dropUnseen(seen map[string]bool) {
	for _, id := range st.ids() {
		if !seen[id] {
			st.apply(id, nil, 0)
		}
	}
}

// apply replaces an endpoint in memory; nil removes it. Older revisions are
// ignored, so that the API and the watch may both report a change.
func (st *stores) apply(id string, ep *endpoint, revision uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	old := st.byID[id]
	if old != nil && revision != 0 && old.revision >= revision {
		return
	}
	if old == nil && ep == nil {
		return
	}
	if ep == nil {
		delete(st.byID, id)
	} else {
		st.byID[id] = ep
	}
	if st.changed != nil {
		st.changed(old, ep)
	}
}

func (st *stores) noteState(e jetstream.KeyValueEntry) {
	id := e.Key()[len(stateKey):]
	st.mu.Lock()
	defer st.mu.Unlock()
	if e.Operation() != jetstream.KeyValuePut {
		delete(st.states, id)
		return
	}
	var s state
	if err := json.Unmarshal(e.Value(), &s); err != nil {
		st.log.Error("webhook state unreadable", "endpoint", id, "err", err)
		return
	}
	st.states[id] = s
}

func (st *stores) ids() []string {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return slices.Sorted(maps.Keys(st.byID))
}

// list returns the endpoints ordered by creation.
func (st *stores) list() []*endpoint {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return slices.SortedFunc(maps.Values(st.byID), func(a, b *endpoint) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return compareText(a.ID, b.ID)
	})
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (st *stores) stateOf(id string) (state, bool) {
	st.mu.RLock()
	defer st.mu.RUnlock()
	s, ok := st.states[id]
	return s, ok
}

var errNotFound = errors.New("no such webhook")

// get reads an endpoint from the store, so that an answer on one node reflects
// a change made on another.
func (st *stores) get(ctx context.Context, id string) (*endpoint, error) {
	if event.CheckSubject(id) != nil {
		return nil, errNotFound // cannot be a key
	}
	e, err := st.endpoints.Get(ctx, id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read webhook %s: %w", id, err)
	}
	return decodeEndpoint(e.Value(), e.Revision())
}

// put stores a new or changed endpoint, unless another node changed it first.
func (st *stores) put(ctx context.Context, ep *endpoint) error {
	data, err := json.Marshal(ep)
	if err != nil {
		return fmt.Errorf("store webhook %s: %w", ep.ID, err)
	}
	var rev uint64
	if ep.revision == 0 {
		rev, err = st.endpoints.Create(ctx, ep.ID, data)
	} else {
		rev, err = st.endpoints.Update(ctx, ep.ID, data, ep.revision)
	}
	if err != nil {
		return fmt.Errorf("store webhook %s: %w", ep.ID, err)
	}
	next, err := decodeEndpoint(data, rev)
	if err != nil {
		return err
	}
	st.apply(ep.ID, next, rev)
	return nil
}

// remove deletes an endpoint, its state and its stored retries.
func (st *stores) remove(ctx context.Context, id string) error {
	if err := st.endpoints.Delete(ctx, id); err != nil {
		return fmt.Errorf("delete webhook %s: %w", id, err)
	}
	st.apply(id, nil, 0)
	err := errors.Join(
		st.state.Purge(ctx, stateKey+id),
		st.retry.Purge(ctx, jetstream.WithPurgeSubject(subjectStored+id+".*")),
		st.retry.Purge(ctx, jetstream.WithPurgeSubject(subjectDue+id)),
	)
	if err != nil {
		st.log.WarnContext(ctx, "deleted webhook left traces", "endpoint", id, "err", err)
	}
	return nil
}

// observe names who hears of endpoint changes and returns the endpoints and
// states as of that moment; nil ends it.
func (st *stores) observe(changed func(old, now *endpoint)) ([]*endpoint, map[string]state) {
	st.mu.Lock()
	st.changed = changed
	states := maps.Clone(st.states)
	eps := slices.Collect(maps.Values(st.byID))
	st.mu.Unlock()
	return eps, states
}
