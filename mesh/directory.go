package mesh

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/run"
)

const (
	// sitesBucket keeps the directory of a site on all its nodes: site.<name> its
	// entries, gone.<key> the forgotten, joined.<hash> which site an address led to.
	sitesBucket  = "weft_sites"
	siteKeys     = "site."
	goneKeys     = "gone."
	joinedKeys   = "joined."
	putTries     = 3
	maxOffers    = 64 // questions and answers that wait; more are refused and counted
	lookEvery    = 250 * time.Millisecond
	compareAgain = 5 * time.Second  // after a comparison that failed
	joinEvery    = time.Second      // between two attempts to join, at first
	joinAtMost   = 30 * time.Second // and later, if it was refused
	dialAtMost   = 5 * time.Second  // or not reached
	newsTakes    = 10 * time.Second // a site that dials may be known here only then
	maxUnknown   = 64               // keys of sites that dial and are not known
	rejoinAfter  = 5 * time.Second  // a link is down until its site is joined again
	compareEvery = time.Minute      // linked sites compare their directories at least
)

// directory is what a site knows of the other sites of the mesh. It makes links
// to them, and spreads what it learns over these.
//
// All that changes it runs in Run's goroutine, one after the other.
type directory struct {
	node *Node
	cfg  Directory
	work chan func(context.Context)

	kv       jetstream.KeyValue   // set by Run before anything else
	urls     []string             // at which others dial this site; set by Run before anything else
	loaded   bool                 // what the bucket holds is in the book; owned by Run
	compared map[string]compare   // with the linked sites, by name; owned by Run
	joining  bool                 // an attempt is under way; owned by Run
	unsent   bool                 // the server has not got the last links; owned by Run
	wait     time.Duration        // until the next; owned by Run
	next     time.Time            // when it may begin; owned by Run
	last     map[string]time.Time // an address was tried; owned by Run
	asking   sync.WaitGroup       // questions under way; they end with Run

	mu      sync.Mutex
	book    book               // guarded by mu
	dirty   bool               // the links may not be those of the book; guarded by mu
	version int                // of the book; guarded by mu
	revs    map[string]kvState // of the bucket's keys; guarded by mu
	joined  map[string]joined  // by key; guarded by mu
	joins   map[string]string  // why an address is not joined by, by address; guarded by mu

	unknown map[string]time.Time // since when a key that is not known dials; guarded by mu

	refused refusedCounter
}

// expected tells whether a site with a key that is not known may be one of which
// this site is about to hear: the one that dials may have heard of this one first.
func (d *directory) expected(key string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, gone := d.book.gone[key]; gone {
		return false
	}
	first, dialled := d.unknown[key]
	if !dialled || time.Since(first) > repeatAfter+newsTakes { // long ago: it was known meanwhile
		if len(d.unknown) >= maxUnknown {
			clear(d.unknown)
		}
		first = time.Now()
		d.unknown[key] = first
	}
	return time.Since(first) < newsTakes
}

// kvState is the last revision known of a key of the bucket, and whether it has a value.
type kvState struct {
	revision uint64
	live     bool
}

// joined is an address of the configuration and the site it led to.
type joined struct {
	URL  string `json:"url"`
	Site string `json:"site"`
}

// compare is when the directory was last compared with a linked site's.
type compare struct {
	busy    bool
	failed  bool
	version int       // of the book
	link    time.Time // since when the link was up
	at      time.Time
}

// exchange is all that a site knows, as it is sent to another.
type exchange struct {
	Version int         `json:"version"`
	From    string      `json:"from"`
	At      int64       `json:"at"` // the sender's clock, Unix ms
	Records []record    `json:"records"`
	Gone    []tombstone `json:"gone"`
	Problem string      `json:"problem,omitempty"`
}

func newDirectory(n *Node) *directory {
	return &directory{
		node: n, cfg: n.cfg.Links.Directory, work: make(chan func(context.Context), maxOffers),
		compared: map[string]compare{}, last: map[string]time.Time{}, book: newBook(), revs: map[string]kvState{},
		joined: map[string]joined{}, joins: map[string]string{}, unknown: map[string]time.Time{}, wait: joinEvery, refused: n.metrics.directory,
	}
}

// Run keeps the directory until ctx ends.
func (d *directory) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	d.urls = d.addresses()
	defer d.asking.Wait()
	defer cancel()
	watch := d.open(ctx)
	if watch == nil {
		return nil // interrupted
	}
	defer func() { _ = watch.Stop() }() // the connection ends next
	sub, err := d.welcome(ctx)
	if err != nil {
		return fmt.Errorf("answer sites that join: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case e := <-watch.Updates():
			d.update(ctx, e)
		case do := <-d.work:
			do(ctx)
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
		if d.loaded && ctx.Err() == nil {
			d.keep(ctx)
		}
	}
}

// open makes the bucket and begins to watch it; nil if ctx ends first.
func (d *directory) open(ctx context.Context) jetstream.KeyWatcher {
	n := d.node
	for ; ctx.Err() == nil; run.Pause(ctx, linkRetry) {
		kv, err := n.bus.EnsureKV(ctx, jetstream.KeyValueConfig{Bucket: sitesBucket, Replicas: n.cfg.Replicas(), Description: "The sites of the mesh"})
		if err == nil {
			var watch jetstream.KeyWatcher
			if watch, err = kv.WatchAll(ctx); err == nil {
				d.kv = kv
				return watch
			}
		}
		if ctx.Err() == nil {
			n.Log.WarnContext(ctx, "directory of sites not read yet", "err", err)
		}
	}
	return nil
}

// offer queues what is to be done in Run, or drops and counts it.
func (d *directory) offer(do func(context.Context)) {
	select {
	case d.work <- do:
	default:
		d.refused.count("busy")
	}
}

// update takes an update of the bucket; nil ends the first ones.
func (d *directory) update(ctx context.Context, e jetstream.KeyValueEntry) {
	if e == nil {
		d.loaded = true
		return
	}
	var value []byte
	if e.Operation() == jetstream.KeyValuePut {
		value = e.Value()
	}
	if err := d.take(e.Key(), value, e.Revision()); err != nil {
		d.node.Log.ErrorContext(ctx, "entry of the directory not taken from the bucket", "key", e.Key(), "err", err)
	}
}

// take brings a key of the bucket into memory; no value: it was removed.
func (d *directory) take(key string, value []byte, revision uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if revision <= d.revs[key].revision {
		return nil // known already
	}
	d.revs[key] = kvState{revision, value != nil}
	d.version++
	d.dirty = true
	switch name, isSite := strings.CutPrefix(key, siteKeys); {
	case isSite && value == nil:
		delete(d.book.sites, name)
	case isSite:
		var r record
		if err := json.Unmarshal(value, &r); err != nil {
			return err
		}
		e, err := r.open() // whoever can write to the bucket cannot make entries of others
		if err != nil || e.Site != name {
			return fmt.Errorf("entry of site %q: %w", e.Site, err)
		}
		d.book.sites[name] = cell{e, r, revision}
	case strings.HasPrefix(key, goneKeys) && value != nil:
		var t tombstone
		if err := json.Unmarshal(value, &t); err != nil {
			return err
		}
		d.book.gone[t.PublicKey] = t
	case strings.HasPrefix(key, joinedKeys) && value == nil:
		delete(d.joined, key)
	case strings.HasPrefix(key, joinedKeys):
		var j joined
		if err := json.Unmarshal(value, &j); err != nil {
			return err
		}
		d.joined[key] = j
	}
	return nil
}

// put writes a key of the bucket, if it is still as it is known here, and into memory.
func (d *directory) put(ctx context.Context, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	d.mu.Lock()
	known := d.revs[key]
	d.mu.Unlock()
	var revision uint64
	if known.live {
		revision, err = d.kv.Update(ctx, key, value, known.revision)
	} else {
		revision, err = d.kv.Create(ctx, key, value)
	}
	if err != nil {
		return d.reread(ctx, key, err)
	}
	return d.take(key, value, revision)
}

// errChanged: another node of the site has written the key meanwhile.
var errChanged = errors.New("changed meanwhile")

// reread brings a key up to date after a write of it has failed.
func (d *directory) reread(ctx context.Context, key string, failed error) error {
	e, err := d.kv.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("write %s to bucket %s: %w", key, sitesBucket, failed)
	}
	d.mu.Lock()
	stale := e.Revision() > d.revs[key].revision
	d.mu.Unlock()
	if !stale {
		return fmt.Errorf("write %s to bucket %s: %w", key, sitesBucket, failed)
	}
	return errors.Join(errChanged, d.take(key, e.Value(), e.Revision()))
}

// erase removes a key of the bucket.
func (d *directory) erase(ctx context.Context, key string) error {
	own, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := d.kv.Delete(own, key); err != nil {
		return fmt.Errorf("remove %s from bucket %s: %w", key, sitesBucket, err)
	}
	d.mu.Lock()
	revision := d.revs[key].revision + 1 // what was written before is older; its own revision comes by the watch
	d.mu.Unlock()
	return d.take(key, nil, revision)
}

// snapshot is the book as it is now.
func (d *directory) snapshot() (book, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return book{sites: maps.Clone(d.book.sites), gone: maps.Clone(d.book.gone)}, d.version
}

// admit takes an entry into the directory; a rejection says why not.
func (d *directory) admit(ctx context.Context, r record) error {
	err := errChanged
	for try := 0; try < putTries && errors.Is(err, errChanged); try++ {
		var e entry
		if e, err = r.open(); err != nil {
			return err
		}
		b, _ := d.snapshot()
		if i := slices.IndexFunc(d.node.cfg.Links.Sites, func(l Link) bool { return l.Name == e.Site && l.PublicKey != "" && l.PublicKey != e.PublicKey }); i >= 0 {
			return reject("name", "mesh.links.sites[%d].publicKey: site %q has another NKey in the directory", i, e.Site)
		}
		keep, no := b.judge(e, d.node.Now())
		if no != nil || !keep {
			return no
		}
		err = d.put(ctx, siteKeys+e.Site, r)
	}
	return err
}

// bury forgets a site: its key is never let in again.
func (d *directory) bury(ctx context.Context, t tombstone) error {
	b, _ := d.snapshot()
	if _, known := b.gone[t.PublicKey]; known {
		return nil
	}
	if own, _ := publicKey(d.node.cfg.Links.NKey); t.PublicKey == own {
		return reject("forgotten", "site: this site was forgotten at site %s (weft mesh forget): the other sites do not let it in", t.By)
	}
	if len(b.gone) >= maxGone {
		return reject("limit", "%d sites were forgotten, which is the limit: give all sites another mesh.links.directory.secret, and remove bucket %s", maxGone, sitesBucket)
	}
	if err := d.put(ctx, goneKeys+t.PublicKey, t); err != nil && !errors.Is(err, errChanged) {
		return err
	}
	if b.sites[t.Site].PublicKey == t.PublicKey {
		if err := d.erase(ctx, siteKeys+t.Site); err != nil {
			return err
		}
	}
	d.node.Log.WarnContext(ctx, "site forgotten", "site", t.Site, "by", t.By)
	return nil
}

// joinedKey is the bucket's key for an address.
func joinedKey(url string) string {
	sum := sha256.Sum256([]byte(url))
	return joinedKeys + hex.EncodeToString(sum[:8])
}

// answer answers a linked site that compares its directory with this one's.
func (d *directory) answer(l *link, m *nats.Msg) {
	d.offer(func(ctx context.Context) {
		out := exchange{Version: directoryVersion, From: d.node.Site, At: d.node.Now().UnixMilli()}
		var in exchange
		err := json.Unmarshal(m.Data, &in)
		if err == nil {
			err = d.merge(ctx, l, in)
		}
		if err == nil {
			out = d.outgoing()
		} else {
			out.Problem = err.Error()
		}
		data, err := json.Marshal(out)
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			d.node.Log.WarnContext(ctx, "directory not sent", "site", l.Name, "err", err)
		}
	})
}
