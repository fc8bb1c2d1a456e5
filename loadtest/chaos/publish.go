package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// publisher sends one ordered stream of events to its site: the next request
// goes out when the last one is settled.
type publisher struct {
	site   *site
	number int
	cfg    Config
	client *http.Client
	at     int // the node it sends to
	acked  set
	sent   uint64
	data   string
	prefix string // of ids

	mu     sync.Mutex
	failed []Failure       // guarded by mu
	torn   map[uint64]bool // guarded by mu: requests that were stored in parts
}

// Failure is a publish that was not acknowledged in time.
type Failure struct {
	Site   string  `json:"site"`
	First  string  `json:"first"` // id
	Events int     `json:"events"`
	At     float64 `json:"at"` // seconds from the start of publishing
	Error  string  `json:"error"`

	at time.Time
}

// subjectRoot is the first token of every subject of a run.
const subjectRoot = "chaos"

func newPublisher(s *site, number int, cfg Config) *publisher {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, DisableCompression: true,
	}
	return &publisher{
		site: s, number: number, cfg: cfg, client: &http.Client{Transport: t}, at: number % len(s.nodes),
		data: strings.Repeat("x", cfg.Size), torn: map[uint64]bool{},
	}
}

// key names the publisher in ids.
func (p *publisher) key() string { return p.site.name + "-" + strconv.Itoa(p.number) }

func (p *publisher) id(n uint64) string { return p.prefix + p.key() + "-" + strconv.FormatUint(n, 10) }

// parseID splits an id into the publisher's key and the event's number.
func parseID(id string) (key string, n uint64, ok bool) {
	i := strings.LastIndexByte(id, '-')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(id[i+1:], 10, 40)
	return id[:i], n, err == nil
}

// publish starts all publishers; the returned function waits for their end.
func (r *run) publish(ctx context.Context) (wait func()) {
	var wg sync.WaitGroup
	rate := r.cfg.Rate / float64(len(r.world.sites)*r.cfg.Publishers)
	for _, s := range r.world.sites {
		s.gaps.begin(time.Now())
		for i := range r.cfg.Publishers {
			p := newPublisher(s, i, r.cfg)
			r.publishers = append(r.publishers, p)
			wg.Go(func() { p.run(ctx, rate) })
		}
	}
	return wg.Wait
}

// backlog is how much a publisher makes good of the time that an outage took.
const backlog = 2 * time.Second

// run publishes at the rate until ctx ends. The last request is settled first.
func (p *publisher) run(ctx context.Context, rate float64) {
	defer p.client.CloseIdleConnections()
	every := time.Duration(float64(p.cfg.Batch) / rate * float64(time.Second))
	due := time.Now().Add(every * time.Duration(p.number) / time.Duration(p.cfg.Publishers))
	for sleep(ctx, time.Until(due)) == nil {
		due = due.Add(every)
		if late := time.Now().Add(-backlog); due.Before(late) {
			due = late
		}
		p.request(context.WithoutCancel(ctx))
	}
}

// retryPause keeps a publisher from spinning when no node answers.
const retryPause = 50 * time.Millisecond

// attemptTimeout bounds one attempt: a node that hangs is left for another.
const attemptTimeout = 5 * time.Second

// request sends the next events, at other nodes of the site if need be, until
// all are acknowledged or the time is over.
func (p *publisher) request(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	first := p.sent
	open := make([]uint64, p.cfg.Batch)
	for i := range open {
		open[i] = p.sent
		p.sent++
	}
	for {
		left, err := p.attempt(ctx, open)
		now := time.Now()
		if len(left) < len(open) {
			p.site.gaps.ack(now)
		}
		if len(left) == 0 {
			return
		}
		if len(left) < p.cfg.Batch {
			p.tear(first)
		}
		open = left
		p.at = (p.at + 1) % len(p.site.nodes)
		if ctx.Err() != nil || sleep(ctx, retryPause) != nil {
			p.fail(open, err, now)
			return
		}
	}
}

// tear notes that a request was stored in parts, so that its events may stand
// in another order.
func (p *publisher) tear(first uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.torn[first/uint64(p.cfg.Batch)] = true
}

// tornAt tells whether the request of event n was stored in parts.
func (p *publisher) tornAt(n uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.torn[n/uint64(p.cfg.Batch)]
}

func (p *publisher) fail(open []uint64, err error, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = append(p.failed, Failure{Site: p.site.name, First: p.id(open[0]), Events: len(open), Error: err.Error(), at: at})
}

func (p *publisher) failures() []Failure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Failure(nil), p.failed...)
}

// attempt sends the events to one node and returns those it did not acknowledge.
func (p *publisher) attempt(ctx context.Context, open []uint64) (left []uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	n := p.site.nodes[p.at]
	req, err := p.build(ctx, n, open)
	if err != nil {
		return open, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return open, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	switch {
	case err != nil:
		return open, fmt.Errorf("node %s: %w", n.name, err)
	case resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusMultiStatus:
		return open, fmt.Errorf("node %s answers %s: %.200s", n.name, resp.Status, body)
	case p.cfg.Batch == 1:
		p.acked.add(open[0])
		return nil, nil
	}
	return p.results(open, body)
}

func (p *publisher) build(ctx context.Context, n *node, open []uint64) (*http.Request, error) {
	source := "/" + subjectRoot + "/" + p.key()
	subject := subjectRoot + "." + p.key()
	body, kind := []byte(p.data), "text/plain"
	if p.cfg.Batch > 1 {
		var b bytes.Buffer
		for i, e := range open {
			b.WriteString(map[bool]string{true: "[", false: ","}[i == 0])
			fmt.Fprintf(&b, `{"specversion":"1.0","id":%q,"source":%q,"type":"chaos","datacontenttype":"text/plain","data":%q}`, p.id(e), source, p.data)
		}
		b.WriteString("]")
		body, kind = b.Bytes(), "application/cloudevents-batch+json"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.gateway+"/v1/events/"+subject, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	if p.cfg.Batch == 1 {
		req.Header.Set("Ce-Specversion", "1.0")
		req.Header.Set("Ce-Id", p.id(open[0]))
		req.Header.Set("Ce-Source", source)
		req.Header.Set("Ce-Type", "chaos")
	}
	return req, nil
}

// results reads the answer to a batch: a result per event, in order.
func (p *publisher) results(open []uint64, body []byte) (left []uint64, err error) {
	var answers []struct {
		ID      string          `json:"id"`
		Problem json.RawMessage `json:"problem"`
	}
	if err := json.Unmarshal(body, &answers); err != nil || len(answers) != len(open) {
		return open, fmt.Errorf("answer to %d events: %w: %.200s", len(open), errors.Join(err), body)
	}
	for i, a := range answers {
		switch {
		case a.ID != p.id(open[i]):
			return open, fmt.Errorf("result %d is of %s, not of %s", i, a.ID, p.id(open[i]))
		case a.Problem == nil:
			p.acked.add(open[i])
		default:
			left, err = append(left, open[i]), fmt.Errorf("%s: %s", a.ID, a.Problem)
		}
	}
	return left, err
}

// gaps are the times without an acknowledgement at a site.
type gaps struct {
	mu   sync.Mutex
	last time.Time // guarded by mu
	all  []pause   // guarded by mu
}

type pause struct{ from, to time.Time }

// notable is the shortest gap that is kept.
const notable = 10 * time.Millisecond

func (g *gaps) begin(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = now
}

func (g *gaps) ack(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Sub(g.last) >= notable {
		g.all = append(g.all, pause{g.last, now})
	}
	if now.After(g.last) {
		g.last = now
	}
}

// longest is the longest gap that touches the time from from to to.
func (g *gaps) longest(from, to time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := time.Duration(0)
	for _, p := range g.all {
		if p.from.Before(to) && p.to.After(from) {
			out = max(out, p.to.Sub(p.from))
		}
	}
	return out
}
