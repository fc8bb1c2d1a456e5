package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"weft.dev/weft/event"
	"weft.dev/weft/examples/partner"
	"weft.dev/weft/internal/bus"
)

func now() time.Time { return time.Now() }

// prepare does what a user would do before the first order: the partner
// registers a webhook endpoint.
func (w *world) prepare(ctx context.Context) error {
	body, err := json.Marshal(map[string]any{
		"url": w.url(w.partner) + "/hooks", "subjects": []string{"orders.completed", "orders.cancelled"},
		"description": "the partner of the demo",
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.fra.url("gateway")+"/v1/webhooks", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("create the partner's endpoint: %w", err)
	}
	defer resp.Body.Close()
	var made struct {
		Secret string
		Detail string
	}
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil || resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("create the partner's endpoint: %s: %s", resp.Status, made.Detail)
	}
	receiver, err := partner.New(made.Secret, func(id string, _ []byte) { w.ledger.seen(sinkPartner, id) })
	if err != nil {
		return fmt.Errorf("read the partner's secret: %w", err)
	}
	w.receiver.Store(http.Handler(receiver))
	return nil
}

// watch follows the sinks that are not services until ctx ends.
func (w *world) watch(ctx context.Context) error {
	stopped := ctx
	g, ctx := errgroup.WithContext(ctx)
	shopOnly := bus.ReadConfig{Patterns: shopSubjects}
	seenAt := func(sink int) func(event.Stored) error {
		return func(e event.Stored) error {
			w.ledger.seen(sink, e.ID)
			return nil
		}
	}
	g.Go(func() error { return w.fra.node.Bus().Read(ctx, shopOnly, seenAt(sinkFra)) })
	g.Go(func() error { return w.iad.node.Bus().Read(ctx, shopOnly, seenAt(sinkIad)) })
	g.Go(func() error {
		return w.fra.node.Bus().Read(ctx, bus.ReadConfig{Patterns: []string{"kafka.>"}}, seenAt(sinkKafkaBack))
	})
	g.Go(func() error {
		return w.fra.node.Bus().Read(ctx, bus.ReadConfig{Patterns: []string{"aws.>"}}, seenAt(sinkAWSBack))
	})
	g.Go(func() error { return w.browse(ctx) })
	g.Go(func() error { return w.consumeKafka(ctx) })
	if err := g.Wait(); stopped.Err() == nil {
		return err
	}
	return nil // what breaks while all is stopped is no news
}

// browse subscribes as the order board does.
func (w *world) browse(ctx context.Context) error {
	dialer := websocket.Dialer{Subprotocols: []string{"weft.json.v1"}}
	ws, resp, err := dialer.DialContext(ctx, "ws://"+w.iad.node.Addr("gateway")+"/v1/ws", nil)
	if err != nil {
		return fmt.Errorf("open the browser's WebSocket: %w", err)
	}
	_ = resp.Body.Close() // empty: the connection was upgraded
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	defer stop()
	if err := ws.WriteJSON(map[string]any{"t": "hello", "v": 1, "name": "demo-browser"}); err != nil {
		return err
	}
	for i, subject := range shopSubjects {
		sub := map[string]any{"t": "sub", "id": fmt.Sprint(i), "subject": subject, "start": map[string]any{"all": true}}
		if err := ws.WriteJSON(sub); err != nil {
			return err
		}
	}
	for {
		_, frame, err := ws.ReadMessage()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read the browser's WebSocket: %w", err)
		}
		if err := w.frame(frame); err != nil {
			return err
		}
	}
}

// frame notes the events of one WebSocket frame.
func (w *world) frame(frame []byte) error {
	var m struct {
		T    string
		E    *event.Event
		B    [][]json.RawMessage // of evs: position and event
		Code string
		Msg  string
	}
	if err := json.Unmarshal(frame, &m); err != nil {
		return fmt.Errorf("browser: %s: %w", frame, err)
	}
	if m.T == "err" {
		return fmt.Errorf("browser: %s: %s", m.Code, m.Msg)
	}
	for _, pair := range m.B {
		var e event.Event
		if len(pair) != 2 || json.Unmarshal(pair[1], &e) != nil {
			return fmt.Errorf("browser: %s is no batch of events", frame)
		}
		w.browsed(e)
	}
	if m.E != nil {
		w.browsed(*m.E)
	}
	return nil
}

func (w *world) browsed(e event.Event) {
	w.ledger.seen(sinkBrowser, e.ID)
	if e.Type == "orders.completed" {
		w.example.Store(traceOf(e.Traceparent()))
	}
}

// consumeKafka reads the topic as a foreign consumer does.
func (w *world) consumeKafka(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafkaAddr()), kgo.ConsumeTopics("shop"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return fmt.Errorf("open the Kafka consumer: %w", err)
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		fetches.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == "ce_id" {
					w.ledger.seen(sinkKafka, string(h.Value))
				}
			}
		})
	}
}
