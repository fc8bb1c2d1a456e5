package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Row is what one site has of the events accepted at another, or at itself.
type Row struct {
	Site     string `json:"site"`
	Origin   string `json:"origin"`
	Accepted uint64 `json:"accepted"`
	Present  uint64 `json:"present"` // distinct
	Lost     uint64 `json:"lost"`
	// Duplicated counts repetitions, of unacknowledged events too.
	Duplicated uint64 `json:"duplicated"`
	Disordered uint64 `json:"outOfOrder"`
	// Extra events were stored, but their acknowledgement did not arrive.
	Extra    uint64   `json:"unacknowledged"`
	Examples []string `json:"examples,omitempty"` // ids of what is wrong
}

// examples bounds the ids that a row shows of each kind.
const examples = 5

// rows holds what was seen at the sites against what was accepted.
func (r *run) rows(seen map[*site]*tracks) (out []Row) {
	for _, s := range r.world.sites {
		for _, origin := range r.world.sites {
			row := Row{Site: s.name, Origin: origin.name}
			for _, p := range r.publishersOf(origin) {
				row.add(p, seen[s].track(p.key()))
			}
			out = append(out, row)
		}
	}
	return out
}

// add counts one publisher's events.
func (r *Row) add(p *publisher, t *track) {
	r.Accepted += p.acked.count()
	r.Present += t.seen.count()
	lost, n := p.acked.without(&t.seen, examples)
	r.Lost += n
	for _, n := range lost {
		r.example("lost", p.id(n))
	}
	_, n = t.seen.without(&p.acked, 0)
	r.Extra += n
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.dups {
		r.Duplicated++
		r.example("duplicated", p.id(n))
	}
	for _, n := range t.late {
		if p.acked.has(n) && !p.tornAt(n) {
			r.Disordered++
			r.example("out of order", p.id(n))
		}
	}
}

func (r *Row) example(what, id string) {
	text := what + " " + id
	n := 0
	for _, e := range r.Examples {
		if strings.HasPrefix(e, what+" ") {
			n++
		}
	}
	if n < examples {
		r.Examples = append(r.Examples, text)
	}
}

// readers is how many sites are read at once.
const readers = 2

// read reads every site's stream from its start, apart from all that followed
// it during the run.
func (r *run) read(ctx context.Context) (map[*site]*tracks, error) {
	out := map[*site]*tracks{}
	errs := make([]error, len(r.world.sites))
	slots := make(chan struct{}, readers)
	var wg sync.WaitGroup
	for i, s := range r.world.sites {
		t := &tracks{}
		out[s] = t
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = s.read(ctx, t)
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// readTimeout is how long the reader waits for the next event.
const readTimeout = 30 * time.Second

// read takes the ids of all events that the site stores.
func (s *site) read(ctx context.Context, t *tracks) error {
	var urls []string
	for _, n := range s.nodes {
		urls = append(urls, "nats://"+n.client)
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.Name("weft load chaos"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("read site %s: %w", s.name, err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("read site %s: %w", s.name, err)
	}
	var last uint64
	err = errors.New("not asked")
	wait, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	poll(wait, 200*time.Millisecond, func() bool {
		var stream jetstream.Stream
		if stream, err = js.Stream(wait, "EVENTS"); err == nil {
			last = stream.CachedInfo().State.LastSeq
		}
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("read site %s: %w", s.name, err)
	}
	cons, err := js.OrderedConsumer(ctx, "EVENTS", jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy, HeadersOnly: true})
	if err != nil {
		return fmt.Errorf("read site %s: %w", s.name, err)
	}
	msgs, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("read site %s: %w", s.name, err)
	}
	defer msgs.Stop()
	for {
		msg, err := msgs.Next(jetstream.NextMaxWait(readTimeout))
		if err != nil {
			return fmt.Errorf("read site %s: %w", s.name, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read site %s: %w", s.name, err)
		}
		if parts := strings.Split(msg.Subject(), "."); len(parts) > 2 && parts[0] == "ev" && parts[2] == subjectRoot {
			t.note(msg.Headers().Get("ce-id"))
		}
		if meta.Sequence.Stream >= last {
			return nil
		}
	}
}
