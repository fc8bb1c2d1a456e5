package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kfake"

	"weft.dev/weft/bridge/sns/snsfake"
	"weft.dev/weft/examples/shop"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/internal/run"
)

// world is everything that runs in the demo.
type world struct {
	cfg Config
	dir string
	log *slog.Logger

	kafka    *kfake.Cluster
	aws      net.Listener
	page     net.Listener
	partner  net.Listener
	cloud    *snsfake.Server
	fra, iad *site
	pods     []*pod
	orders   *shop.Service
	ledger   *ledger
	receiver atomic.Value // http.Handler of the partner, once its endpoint exists
	example  atomic.Value // string: trace id of a completed order
}

// The sinks, by their index in the ledger.
const (
	sinkFra = iota
	sinkIad
	sinkPayments
	sinkInventory
	sinkShipping
	sinkOrders
	sinkBrowser
	sinkPartner
	sinkKafka
	sinkKafkaBack
	sinkAWSBack
)

var shopSubjects = []string{"orders.>", "payments.>", "inventory.>", "shipping.>"}

func sinks() []sink {
	return []sink{
		sinkFra:       {"stream at fra", shopSubjects},
		sinkIad:       {"stream at iad", shopSubjects},
		sinkPayments:  {"payments (sidecar, iad)", []string{"orders.created"}},
		sinkInventory: {"inventory (sidecar, fra)", []string{"payments.authorized"}},
		sinkShipping:  {"shipping (sidecar, iad)", []string{"inventory.reserved"}},
		sinkOrders:    {"orders (sidecar, fra)", []string{"payments.refused", "shipping.dispatched"}},
		sinkBrowser:   {"browser (WebSocket, iad)", shopSubjects},
		sinkPartner:   {"partner (webhook, fra)", []string{"orders.completed", "orders.cancelled"}},
		sinkKafka:     {"Kafka topic", []string{"orders.>"}},
		sinkKafkaBack: {"Kafka, back in the mesh", []string{"orders.>"}},
		sinkAWSBack:   {"SNS/SQS, back in the mesh", []string{"shipping.>"}},
	}
}

// open takes the listeners and builds all parts; nothing runs yet.
func (w *world) open() error {
	w.ledger = newLedger(sinks(), now)
	w.example.Store("")
	w.cloud = snsfake.New(snsfake.Config{})
	if err := w.cloud.Pipe("shipments", "shipments", true); err != nil {
		return err
	}
	var err error
	if w.kafka, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(w.port(9092)), kfake.SeedTopics(4, "shop")); err != nil {
		return w.portError("Kafka", err)
	}
	for _, l := range []struct {
		listener *net.Listener
		name     string
		port     int
	}{{&w.aws, "SNS/SQS", 4566}, {&w.page, "the order board", 8480}, {&w.partner, "the partner", 8490}} {
		if *l.listener, err = w.listen(l.port); err != nil {
			return errors.Join(w.portError(l.name, err), w.shut())
		}
	}
	if err := w.sites(); err != nil {
		return errors.Join(err, w.shut())
	}
	return nil
}

// listen opens the usual port on loopback, or a free one.
func (w *world) listen(usual int) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(context.Background(), "tcp", "127.0.0.1:"+strconv.Itoa(w.port(usual)))
}

// port is the usual port, or 0 for a free one.
func (w *world) port(usual int) int {
	if w.cfg.AnyPort {
		return 0
	}
	return usual
}

func (w *world) portError(what string, err error) error {
	return fmt.Errorf("listen for %s: %w (weft demo --any-port takes free ports)", what, err)
}

// close frees what run.Stack does not own.
func (w *world) close() { _ = w.shut() }

func (w *world) shut() error {
	if w.kafka != nil {
		w.kafka.Close()
	}
	for _, l := range []net.Listener{w.aws, w.page, w.partner} {
		if l != nil {
			_ = l.Close() // closed by its server in a good end
		}
	}
	return nil
}

// services is the world from the bottom: outside systems, sites, sidecars with
// their services, and those who watch.
func (w *world) services() []run.Service {
	partner := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if h, ok := w.receiver.Load().(http.Handler); ok {
			h.ServeHTTP(rw, r)
			return
		}
		http.Error(rw, "not open yet", http.StatusServiceUnavailable)
	})
	services := []run.Service{
		run.Named("sns", run.Func(func(ctx context.Context) error { return w.cloud.Serve(ctx, w.aws) })),
		run.Named("partner", httpd.New("partner", w.partner, partner, w.log)),
		run.Named("site fra", w.fra.node),
		run.Named("site iad", w.iad.node),
	}
	for _, p := range w.pods {
		services = append(services, run.Named("service "+p.name, p.server), run.Named("sidecar "+p.name, p))
	}
	return append(services,
		run.Named("page", httpd.New("page", w.page, w.board(), w.log)),
		run.Named("watchers", run.Func(w.watch)),
	)
}

// board is the browser page; it learns the gateway's address when it is asked.
func (w *world) board() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		shop.Page("ws://"+w.iad.node.Addr("gateway")+"/v1/ws", w.iad.url("admin")).ServeHTTP(rw, r)
	})
}

func (w *world) url(l net.Listener) string { return "http://" + l.Addr().String() }

func (w *world) kafkaAddr() string { return w.kafka.ListenAddrs()[0] }

func (w *world) sidecarAddrs() string {
	addrs := make([]string, len(w.pods))
	for i, p := range w.pods {
		addrs[i] = p.api.Addr().String()
	}
	return strings.Join(addrs, " ")
}
