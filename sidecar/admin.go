package sidecar

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/sidecar/policy"
)

// Subjects by which the nodes of a site know its sidecars.
const (
	// PresencePrefix stands before <app>.<instance>: each sidecar publishes a
	// Presence there every five seconds, when it starts and when it stops.
	PresencePrefix = "weft.sidecar."
	// PresenceAsk is a request that every sidecar answers with its Presence.
	PresenceAsk = "weft.sidecars"
)

const presenceEvery = 5 * time.Second

// Presence is what a sidecar tells about itself.
type Presence struct {
	App           string                 `json:"app"`
	Instance      string                 `json:"instance"`
	Site          string                 `json:"site"`
	Started       time.Time              `json:"started"`
	API           string                 `json:"api"`
	Metrics       string                 `json:"metrics"`
	Draining      bool                   `json:"draining"`
	Stopped       bool                   `json:"stopped,omitempty"` // the last word of this instance
	Subscriptions []SubscriptionPresence `json:"subscriptions"`
}

// SubscriptionPresence is the state of one subscription at one sidecar. The
// counts are since its start.
type SubscriptionPresence struct {
	Name        string       `json:"name"`
	Consumer    string       `json:"consumer"`
	Subjects    []string     `json:"subjects"`
	Breaker     policy.State `json:"breaker"`
	Reason      string       `json:"reason,omitempty"` // what does not work, the app or the consumer
	Held        int64        `json:"held"`
	Inflight    int64        `json:"inflight"`
	Delivered   int64        `json:"delivered"`
	Failed      int64        `json:"failed"` // calls, not events
	DeadLetters int64        `json:"deadLetters"`
}

func (p *Proxy) presence() Presence {
	out := Presence{
		App: p.cfg.App.ID, Instance: p.instance, Site: p.up.site(), Started: p.started,
		API: p.api.Addr().String(), Metrics: p.admin.Addr().String(), Draining: p.draining.Load(),
		Subscriptions: make([]SubscriptionPresence, len(p.lanes)),
	}
	for i, l := range p.lanes {
		out.Subscriptions[i] = SubscriptionPresence{
			Name: l.name, Consumer: l.durable, Subjects: p.cfg.Subscriptions[i].Subjects,
			Breaker: policy.State(l.state.Load()), Held: l.count.held.Load(), Inflight: l.count.inflight.Load(),
			Delivered: l.count.delivered.Load(), Failed: l.count.failed.Load(), DeadLetters: l.count.buried.Load(),
		}
		if why := l.fault.Load(); why != nil {
			out.Subscriptions[i].Reason = *why
		}
	}
	return out
}

// announce publishes the presence until ctx ends and answers who asks for it.
func (p *Proxy) announce(ctx context.Context) error {
	subject := PresencePrefix + p.cfg.App.ID + "." + p.instance
	tick := time.NewTicker(presenceEvery)
	defer tick.Stop()
	early := time.NewTicker(dialEvery) // until the first connection
	defer early.Stop()
	var asked *nats.Subscription
	for {
		if b, err := p.up.connected(); err == nil {
			early.Stop()
			if asked == nil {
				asked = p.answer(b)
			}
			p.tell(b, subject, p.presence())
		}
		select {
		case <-early.C:
		case <-tick.C:
		case <-ctx.Done():
			if b, err := p.up.connected(); err == nil {
				last := p.presence()
				last.Stopped = true
				p.tell(b, subject, last)
			}
			return nil
		}
	}
}

func (p *Proxy) answer(b *bus.Bus) *nats.Subscription {
	sub, err := b.Conn().Subscribe(PresenceAsk, func(m *nats.Msg) {
		if m.Reply != "" {
			p.tell(b, m.Reply, p.presence())
		}
	})
	if err != nil {
		p.log.Debug("presence cannot be asked for", "err", err)
		return nil
	}
	return sub
}

func (p *Proxy) tell(b *bus.Bus, subject string, what Presence) {
	data, err := json.Marshal(what)
	if err == nil {
		err = b.Conn().Publish(subject, data)
	}
	if err != nil {
		p.log.Debug("presence not told", "err", err)
	}
}

// adminRoutes serves metrics and health.
func (p *Proxy) adminRoutes(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", healthy)
	mux.HandleFunc("GET /readyz", p.ready)
	return mux
}

func healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n")) // who asked is gone
}

// readiness is the answer of /readyz: 200 if ready, else 503 with the reasons.
type readiness struct {
	Ready         bool                   `json:"ready"`
	Reasons       []string               `json:"reasons,omitempty"`
	Subscriptions []SubscriptionPresence `json:"subscriptions"`
}

func (p *Proxy) ready(w http.ResponseWriter, _ *http.Request) {
	now := p.presence()
	r := readiness{Subscriptions: now.Subscriptions}
	if now.Draining {
		r.Reasons = append(r.Reasons, "draining")
	}
	if why := p.up.reason(); why != "" {
		r.Reasons = append(r.Reasons, why)
	}
	r.Ready = len(r.Reasons) == 0
	status := http.StatusOK
	if !r.Ready {
		status = http.StatusServiceUnavailable
	}
	httpd.WriteJSON(w, status, r)
}
