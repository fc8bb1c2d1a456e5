package chaos

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// track is what was seen of one publisher at one site.
type track struct {
	seen set
	mu   sync.Mutex
	dups []uint64 // guarded by mu
	late []uint64 // guarded by mu: came after a later one
}

// kept bounds what is kept of what went wrong with one publisher's events.
const kept = 10_000

func (t *track) note(n uint64) {
	end := t.seen.end()
	again := !t.seen.add(n)
	if !again && n >= end {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	list := &t.late
	if again {
		list = &t.dups
	}
	if len(*list) < kept {
		*list = append(*list, n)
	}
}

// tracks are those of one site.
type tracks struct {
	mu sync.Mutex
	of map[string]*track // guarded by mu, by the publisher's key
}

func (t *tracks) track(key string) *track {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[string]*track{}
	}
	if t.of[key] == nil {
		t.of[key] = &track{}
	}
	return t.of[key]
}

// note takes the id of one event.
func (t *tracks) note(id string) {
	if key, n, ok := parseID(id); ok {
		t.track(key).note(n)
	}
}

// consumer follows all events at a site as a browser does: server-sent events,
// at another node when one is gone, from the last position on.
type consumer struct {
	site   *site
	tracks tracks
	cursor string

	mu         sync.Mutex
	reconnects int      // guarded by mu
	notices    []string // guarded by mu: gaps that the gateway told of
}

// consume starts a consumer at every site; the returned function waits for
// their end.
func (r *run) consume(ctx context.Context) (wait func()) {
	var wg sync.WaitGroup
	for _, s := range r.world.sites {
		c := &consumer{site: s}
		r.consumers = append(r.consumers, c)
		wg.Go(func() { c.run(ctx) })
	}
	return wg.Wait
}

// quiet is how long a consumer waits for anything before it tries another node.
const quiet = 5 * time.Second

func (c *consumer) run(ctx context.Context) {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	for i := 0; ctx.Err() == nil; i++ {
		if i > 0 {
			c.mu.Lock()
			c.reconnects++
			c.mu.Unlock()
		}
		c.follow(ctx, client, c.site.nodes[i%len(c.site.nodes)])
		_ = sleep(ctx, 100*time.Millisecond)
	}
}

// follow reads from one node until that ends.
func (c *consumer) follow(ctx context.Context, client *http.Client, n *node) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := time.AfterFunc(quiet, cancel)
	defer idle.Stop()
	query := url.Values{"subject": {subjectRoot + ".>"}, "start": {"all"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.gateway+"/v1/events?"+query.Encode(), nil)
	if err != nil {
		return
	}
	if c.cursor != "" {
		req.Header.Set("Last-Event-ID", c.cursor)
	}
	resp, err := client.Do(req)
	if err != nil {
		return // it is down
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return
	}
	c.lines(bufio.NewReaderSize(resp.Body, 256<<10), idle)
}

// lines reads server-sent events; an event counts when its blank line is there.
func (c *consumer) lines(r *bufio.Reader, idle *time.Timer) {
	var id, data, kind []byte
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		idle.Reset(quiet)
		line = bytes.TrimSuffix(line, []byte("\n"))
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case len(line) == 0:
			c.take(kind, data)
			if len(id) > 0 {
				c.cursor = string(id)
			}
			id, data, kind = id[:0], data[:0], kind[:0]
		case string(name) == "id":
			id = append(id[:0], value...)
		case string(name) == "data":
			data = append(data[:0], value...)
		case string(name) == "event":
			kind = append(kind[:0], value...)
		}
	}
}

func (c *consumer) take(kind, data []byte) {
	if len(kind) > 0 {
		if bytes.Contains(data, []byte(`"gap"`)) {
			c.mu.Lock()
			c.notices = append(c.notices, fmt.Sprintf("%s: %.200s", c.site.name, data))
			c.mu.Unlock()
		}
		return
	}
	_, rest, ok := bytes.Cut(data, []byte(`"id":"`))
	if id, _, end := bytes.Cut(rest, []byte(`"`)); ok && end {
		c.tracks.note(string(id))
	}
}

// target is what a site shall have of one publisher.
type target struct {
	track *track
	end   uint64
}

type targets []target

// acked is what was acknowledged at either of two sites, for the other one.
func (r *run) acked(a, b *site) (out targets) {
	for _, c := range r.consumers {
		for _, p := range r.publishers {
			if c.site == a && p.site == b || c.site == b && p.site == a {
				out = append(out, target{c.tracks.track(p.key()), p.acked.end()})
			}
		}
	}
	return out
}

// missing is how far behind the consumers are; each publisher's events come in order.
func (t targets) missing() (n int) {
	for _, t := range t {
		if end := t.track.seen.end(); end < t.end {
			n += int(t.end - end)
		}
	}
	return n
}

// level waits until every consumer has seen every acknowledged event that its
// site imports, and tells how long that took.
func (r *run) level(ctx context.Context) (after time.Duration, ok bool) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Level)
	defer cancel()
	ok = poll(ctx, 100*time.Millisecond, func() bool {
		for _, c := range r.consumers {
			for _, origin := range r.world.sites {
				for _, p := range r.publishersOf(origin) {
					if _, n := p.acked.without(&c.tracks.track(p.key()).seen, 0); n > 0 {
						return false
					}
				}
			}
		}
		return true
	})
	return time.Since(begin), ok
}

func (r *run) publishersOf(s *site) (out []*publisher) {
	for _, p := range r.publishers {
		if p.site == s {
			out = append(out, p)
		}
	}
	return out
}
