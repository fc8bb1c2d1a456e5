package demo

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/examples/shop"
	"weft.dev/weft/internal/app"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/sidecar"
)

// The configuration files of the demo: what a user would write, with addresses
// and paths as ${VARIABLES}.
//
//go:embed config
var files embed.FS

// site is a node of the demo.
type site struct {
	name string
	node *app.Node
}

func (s *site) url(listener string) string { return "http://" + s.addr(listener) }

func (s *site) addr(listener string) string {
	if listener == "client" {
		return s.node.ClientURL()
	}
	return s.node.Addr(listener)
}

// sites builds both sites and the pods beside them.
func (w *world) sites() error {
	link, err := w.linkAddr()
	if err != nil {
		return err
	}
	vars := map[string]string{
		"OTLP": w.cfg.OTLP, "LINK": link, "KAFKA": w.kafkaAddr(), "AWS": w.url(w.aws),
		"PAGE": w.url(w.page), "PAGE_PORT": strconv.Itoa(w.page.Addr().(*net.TCPAddr).Port),
		"TOPIC_ARN": w.cloud.TopicARN("shipments"), "QUEUE_URL": w.cloud.QueueURL(w.url(w.aws), "shipments"),
	}
	if w.fra, err = w.site("fra", 0, vars); err != nil {
		return err
	}
	if w.iad, err = w.site("iad", 100, vars); err != nil {
		return err
	}
	return w.openPods()
}

// linkAddr is where fra waits for iad. The address stands in both files, so it
// is chosen before either starts.
func (w *world) linkAddr() (string, error) {
	l, err := w.listen(7422)
	if err != nil {
		return "", w.portError("the link between the sites", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// site builds one node from its file; its ports stand offset above the usual.
func (w *world) site(name string, offset int, shared map[string]string) (*site, error) {
	text, err := files.ReadFile("config/" + name + ".yaml")
	if err != nil {
		return nil, err
	}
	own := map[string]string{"DATA": filepath.Join(w.dir, name)}
	for v, port := range map[string]int{"CLIENT": 4222, "GATEWAY": 8280, "ADMIN": 8281} {
		p := w.port(port)
		if p != 0 {
			p += offset
		}
		own[v] = "127.0.0.1:" + strconv.Itoa(p)
	}
	cfg := app.DefaultConfig()
	if err := conf.Load(text, &cfg, lookup(own, shared)); err != nil {
		return nil, fmt.Errorf("site %s: %w", name, err)
	}
	node, err := app.New(cfg, app.Deps{Log: w.log.With("site", name), Version: "demo"})
	if err != nil {
		return nil, fmt.Errorf("site %s: %w", name, err)
	}
	return &site{name: name, node: node}, nil
}

func lookup(maps ...map[string]string) conf.Lookup {
	return func(name string) (string, bool) {
		for _, m := range maps {
			if v, ok := m[name]; ok {
				return v, true
			}
		}
		return "", false
	}
}

// pod is a service of the shop with the sidecar beside it.
type pod struct {
	name   string
	world  *world
	site   *site
	api    net.Listener // the sidecar's
	admin  net.Listener
	port   int // the service's
	server *httpd.Server
	ready  chan struct{}
}

// Ready is closed when the service can publish.
func (p *pod) Ready() <-chan struct{} { return p.ready }

// Run runs the sidecar. The node it dials is up by now.
func (p *pod) Run(ctx context.Context) error {
	text, err := files.ReadFile("config/" + p.name + ".yaml")
	if err != nil {
		return err
	}
	cfg, err := sidecar.LoadConfig(text, lookup(map[string]string{
		"PORT": strconv.Itoa(p.port), "NODE": p.site.node.ClientURL(),
		"API": p.api.Addr().String(), "METRICS": p.admin.Addr().String(),
	}))
	if err != nil {
		return err
	}
	s, err := sidecar.New(cfg, sidecar.Deps{
		Log: p.world.log.With("sidecar", p.name), Metrics: prometheus.NewRegistry(), API: p.api, Admin: p.admin,
	})
	if err != nil {
		return err
	}
	go func() { // ends with the sidecar's start, or with ctx
		select {
		case <-s.Ready():
			close(p.ready)
		case <-ctx.Done():
		}
	}()
	return s.Run(ctx)
}

// role is a service of the shop in the demo.
type role struct {
	name  string
	port  int // of its sidecar
	sink  int
	build func(string, *http.Client) *shop.Service
}

// pod opens a service's listeners and builds it.
func (w *world) pod(at *site, r role) (*shop.Service, error) {
	p := &pod{name: r.name, world: w, site: at, ready: make(chan struct{})}
	service, err := w.listen(0)
	if err != nil {
		return nil, err
	}
	p.port = service.Addr().(*net.TCPAddr).Port
	if p.api, err = w.listen(r.port); err != nil {
		return nil, w.portError("the sidecar of "+r.name, err)
	}
	if p.admin, err = w.listen(0); err != nil {
		return nil, err
	}
	s := r.build("http://"+p.api.Addr().String(), &http.Client{Transport: witness{w.ledger}})
	p.server = httpd.New("service "+r.name, service, w.observed(s, r.sink), w.log)
	w.pods = append(w.pods, p)
	return s, nil
}

// observed notes at the ledger what the service got and finished.
func (w *world) observed(s http.Handler, sinkIndex int) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rec := &statusRecorder{ResponseWriter: rw}
		s.ServeHTTP(rec, r)
		if r.Method == http.MethodPost && rec.status/100 == 2 {
			w.ledger.seen(sinkIndex, r.Header.Get("Ce-Id"))
		}
	})
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader remembers the status.
func (s *statusRecorder) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// openPods builds the four services.
func (w *world) openPods() error {
	var errs [4]error
	w.orders, errs[0] = w.pod(w.fra, role{"orders", 4280, sinkOrders, shop.Orders})
	_, errs[1] = w.pod(w.iad, role{"payments", 4281, sinkPayments, shop.Payments})
	_, errs[2] = w.pod(w.fra, role{"inventory", 4282, sinkInventory, shop.Inventory})
	_, errs[3] = w.pod(w.iad, role{"shipping", 4283, sinkShipping, shop.Shipping})
	return errors.Join(errs[:]...)
}

// traceOf is the trace id in a traceparent, or "".
func traceOf(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 {
		return ""
	}
	return parts[1]
}
