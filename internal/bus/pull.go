package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// pullHeartbeat is how often the server shows during a pull that it knows of
// it. After two missed ones the pull ends: a reconnect is noticed that soon.
const pullHeartbeat = 1500 * time.Millisecond

// Puller hands out the events of a durable consumer, as many as are asked for
// and none ahead. It is for one goroutine.
type Puller struct {
	b    *Bus
	cfg  ConsumeConfig
	cons jetstream.Consumer // nil until made, and after an error
}

// Puller returns a puller for the consumer, which the first Pull makes. AckWait
// and MaxAckPending must be set.
func (b *Bus) Puller(cfg ConsumeConfig) *Puller {
	return &Puller{b: b, cfg: cfg}
}

// Pull asks for n events and calls h with each as it comes, in stream order. It
// returns when all have come, when the server has none for half a minute, or
// when ctx ends; none of these is an error. The server forgets the rest of the
// request. A delivery that was on its way when ctx ended comes again after the
// AckWait.
func (p *Puller) Pull(ctx context.Context, n int, h func(*Delivery)) error {
	if p.cons == nil {
		cons, err := p.b.ensureConsumer(ctx, p.cfg)
		if err != nil {
			return unavailable("pull", err)
		}
		p.cons = cons
	}
	batch, err := p.cons.Fetch(n, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullHeartbeat))
	if err != nil {
		p.cons = nil
		return unavailable("pull", err)
	}
	for m := range batch.Messages() {
		s, err := p.b.decode(m)
		if err != nil {
			return fmt.Errorf("pull: %w", err)
		}
		h(&Delivery{Stored: s, Attempt: attempt(m), msg: m})
	}
	if err := batch.Error(); err != nil && ctx.Err() == nil {
		p.cons = nil
		return unavailable("pull", err)
	}
	return nil
}
