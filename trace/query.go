package trace

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Subjects on which a site answers what its store holds.
const (
	findSubject   = "weft.trace.find"
	recentSubject = "weft.trace.recent"
)

// AskDeadline is how long a journey waits for the other sites.
const AskDeadline = 2 * time.Second

// listDeadline is shorter: the list is refreshed all the time and must not hang on a cut link.
const listDeadline = 700 * time.Millisecond

// Asker reaches the other sites of the mesh.
type Asker interface {
	// Sites are the other sites that should answer, reachable or not.
	Sites() []string
	// Ask sends a request to one site and returns its answer; it gives up when ctx ends.
	Ask(ctx context.Context, site, subject string, data []byte) ([]byte, error)
}

// Query finds journeys over all sites.
type Query struct {
	store *Store
	asker Asker
	log   *slog.Logger
}

// NewQuery looks into the own site's store and asks the others; asker is nil for a mesh of one site.
func NewQuery(store *Store, asker Asker, log *slog.Logger) *Query { return &Query{store, asker, log} }

type findRequest struct {
	IDs []string `json:"ids"`
}

type findAnswer struct {
	Spans     []*Span `json:"spans"`
	Truncated bool    `json:"truncated,omitempty"`
}

// Journey collects the journey that id names: a trace id, a correlation id or an event id. It returns nil if no site
// that answered knows it; silent then lists the sites that might. A silent site makes a journey partial, not an error.
func (q *Query) Journey(ctx context.Context, id string) (j *Journey, silent []string) {
	ctx, cancel := context.WithTimeout(ctx, AskDeadline)
	defer cancel()
	found := map[string]*Span{}
	truncated := false
	ids := []string{id}
	for range 2 { // the second round asks for traces that only the first brought to light
		own, cut := q.store.Find(ids)
		keep(found, own)
		ids = known(id, found)
		answers, missing := askAll[findAnswer](ctx, q, findSubject, findRequest{ids})
		for _, answer := range answers {
			keep(found, answer.Spans)
			cut = cut || answer.Truncated
		}
		truncated, silent = truncated || cut, missing
		all := known(id, found)
		if len(all) == len(ids) || len(missing) > 0 {
			break
		}
		ids = all
	}
	j = NewJourney(id, slices.Collect(maps.Values(found)))
	if j != nil {
		j.Truncated, j.Silent, j.Partial = truncated, silent, len(silent) > 0
	}
	return j, silent
}

// keep adds spans that are new; the same span may be known at several sites.
func keep(found map[string]*Span, spans []*Span) {
	for _, s := range spans {
		if key := s.TraceID + s.SpanID; found[key] == nil {
			found[key] = s
		}
	}
}

// known lists id and the trace ids of spans.
func known(id string, spans map[string]*Span) []string {
	set := map[string]bool{}
	for _, s := range spans {
		set[s.TraceID] = true
	}
	delete(set, id)
	return append([]string{id}, slices.Sorted(maps.Keys(set))...)
}

// Recent is the newest journeys of all sites.
type Recent struct {
	Journeys []Summary `json:"journeys"`
	Partial  bool      `json:"partial"`
	Silent   []string  `json:"silent,omitempty"`
}

// Recent lists the newest journeys of all sites, newest first.
func (q *Query) Recent(ctx context.Context, f Filter) Recent {
	ctx, cancel := context.WithTimeout(ctx, listDeadline)
	defer cancel()
	f = f.withDefaults()
	answers, silent := askAll[[]Summary](ctx, q, recentSubject, f)
	byID := map[string]Summary{}
	for _, list := range append(answers, q.store.Recent(f)) {
		for _, sum := range list {
			if other, twice := byID[sum.ID]; twice {
				sum = merge(other, sum)
			}
			byID[sum.ID] = sum
		}
	}
	list := slices.SortedFunc(maps.Values(byID), newerFirst)
	return Recent{Journeys: list[:min(len(list), f.Limit)], Partial: len(silent) > 0, Silent: silent}
}

// askAll asks every other site at once and returns the answers in the order of the sites, and who stayed silent.
func askAll[T any](ctx context.Context, q *Query, subject string, request any) (answers []T, silent []string) {
	if q.asker == nil {
		return nil, nil
	}
	data, err := json.Marshal(request)
	if err != nil {
		q.log.Error("question not encoded", "subject", subject, "err", err)
		return nil, nil
	}
	sites := q.asker.Sites()
	results := make([]*T, len(sites))
	var wg sync.WaitGroup
	for i, site := range sites {
		wg.Go(func() {
			answer, err := q.asker.Ask(ctx, site, subject, data)
			if err == nil {
				results[i], err = unpack[T](answer)
			}
			if err != nil {
				q.log.Debug("site did not answer", "site", site, "subject", subject, "err", err)
			}
		})
	}
	wg.Wait()
	for i, r := range results {
		if r == nil {
			silent = append(silent, sites[i])
			continue
		}
		answers = append(answers, *r)
	}
	slices.Sort(silent)
	return answers, silent
}

// Server answers the other sites' questions from the own store. All nodes of a site form one queue group.
type Server struct {
	nc    *nats.Conn
	store *Store
	log   *slog.Logger
}

// NewServer answers on nc once it runs.
func NewServer(nc *nats.Conn, store *Store, log *slog.Logger) *Server { return &Server{nc, store, log} }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	const group = "weft-trace"
	for subject, answer := range map[string]func([]byte) (any, error){findSubject: s.find, recentSubject: s.recent} {
		sub, err := s.nc.QueueSubscribe(subject, group, func(msg *nats.Msg) { s.respond(msg, answer) })
		if err != nil {
			return fmt.Errorf("answer %s: %w", subject, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // the connection may be gone, which ends the subscription too
	}
	if err := s.nc.Flush(); err != nil {
		return fmt.Errorf("answer for traces: %w", err)
	}
	<-ctx.Done()
	return nil
}

func (s *Server) respond(msg *nats.Msg, answer func([]byte) (any, error)) {
	result, err := answer(msg.Data)
	if err != nil {
		s.log.Warn("question not understood", "subject", msg.Subject, "err", err)
		return
	}
	data, err := s.fit(result)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil {
		s.log.Warn("question not answered", "subject", msg.Subject, "err", err)
	}
}

func (s *Server) find(data []byte) (any, error) {
	var request findRequest
	if err := json.Unmarshal(data, &request); err != nil {
		return nil, fmt.Errorf("decode question: %w", err)
	}
	spans, truncated := s.store.Find(request.IDs)
	slices.SortFunc(spans, earlierFirst)
	return findAnswer{spans, truncated}, nil
}

func (s *Server) recent(data []byte) (any, error) {
	var f Filter
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("decode question: %w", err)
	}
	return s.store.Recent(f), nil
}

// fit packs an answer so that it fits into one message; of too many spans it leaves out the later ones.
func (s *Server) fit(result any) ([]byte, error) {
	for {
		data, err := pack(result)
		if err != nil || s.nc.MaxPayload() <= 0 || int64(len(data)) <= s.nc.MaxPayload() {
			return data, err
		}
		found, ok := result.(findAnswer)
		if !ok || len(found.Spans) < 2 {
			return nil, fmt.Errorf("answer of %d bytes is over the payload limit", len(data))
		}
		result = findAnswer{found.Spans[:len(found.Spans)/2], true}
	}
}

func pack(v any) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compress answer: %w", err)
	}
	return b.Bytes(), nil
}

func unpack[T any](data []byte) (*T, error) {
	const most = 64 << 20 // unpacked; a full answer of 1 MiB unpacks to about 15 MiB
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("unpack answer: %w", err)
	}
	var v T
	if err := json.NewDecoder(io.LimitReader(z, most)).Decode(&v); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return &v, nil
}
