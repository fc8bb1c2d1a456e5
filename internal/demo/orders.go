package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"weft.dev/weft/examples/shop"
)

var (
	customers = []string{"Ada", "Grace", "Edsger", "Barbara", "Alan", "Katherine", "Dennis", "Frances"}
	items     = []string{"loom", "shuttle", "spindle", "bobbin", "reed", "heddle", "warp beam"}
)

// placeOrders places orders at the configured rate until ctx ends, and waits
// for those under way.
func (w *world) placeOrders(ctx context.Context) (placed, refused int) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / w.cfg.Rate))
	defer tick.Stop()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards refused
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			wg.Wait()
			return n, refused
		case <-tick.C:
		}
		if w.ledger.full() {
			continue // the sinks are far behind: do not pile up more
		}
		o := order(n)
		wg.Go(func() {
			if err := shop.Place(context.WithoutCancel(ctx), w.orders, o); err != nil {
				w.log.Warn("order not accepted", "order", o.ID, "err", err)
				mu.Lock()
				refused++
				mu.Unlock()
			}
		})
	}
}

// order makes the n-th order; every tenth is over the credit limit.
func order(n int) shop.Order {
	o := shop.Order{
		ID:       fmt.Sprintf("o-%s-%d", time.Now().Format("150405"), n),
		Customer: customers[n%len(customers)],
		Item:     items[n%len(items)],
		Cents:    990 + n*37%20_000,
	}
	if n%10 == 9 {
		o.Cents += shop.CreditLimit
	}
	return o
}

// witness is the HTTP transport of the shop's services: it tells the ledger what
// the sidecars accepted. The services know nothing of it.
type witness struct{ ledger *ledger }

// RoundTrip passes the request on and reads the answer of a publish.
func (t witness) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusAccepted {
		return resp, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close() // read to its end
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var ack struct{ ID string }
	if err := json.Unmarshal(body, &ack); err != nil {
		return nil, fmt.Errorf("read the sidecar's answer: %w", err)
	}
	t.ledger.accepted(ack.ID, strings.TrimPrefix(r.URL.Path, "/v1/events/"), sent)
	return resp, nil
}
