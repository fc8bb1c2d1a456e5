package app

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft.dev/weft/bridge"
	"weft.dev/weft/gateway"
	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/internal/dlq"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/trace"
	"weft.dev/weft/ui"
)

// parts is what the admin listener shows.
type parts struct {
	gateway  *gateway.Server
	webhooks *webhook.Service
	bridges  *bridge.Service
	letters  *dlq.Store
}

// adminRoutes is everything on the admin listener: console, its API, metrics,
// health, and the gateway's API so that one URL serves every client command.
func (n *Node) adminRoutes(p parts) (http.Handler, error) {
	console, err := ui.Handler()
	if err != nil {
		return nil, err
	}
	api := http.NewServeMux()
	api.HandleFunc("GET /api/info", n.info)
	api.Handle("/api/journeys", trace.Handler(n.query, n.log))
	api.Handle("/api/journeys/", trace.Handler(n.query, n.log))
	api.Handle("/api/mesh", n.mesh.Handler())
	api.Handle("/api/mesh/", n.mesh.Handler())
	api.Handle("/api/streams", n.mesh.Handler())
	api.Handle("/api/bridges", p.bridges.Handler())
	api.Handle("/api/bridges/", p.bridges.Handler())
	api.Handle("/api/dlq", p.letters.Handler())
	api.Handle("/api/dlq/", p.letters.Handler())
	api.Handle("/api/webhooks", p.webhooks.Handler())
	api.HandleFunc("GET /api/sidecars", n.sidecars)
	api.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		httpd.WriteProblem(w, httpd.Problem{
			Type: "not-found", Title: "There is nothing here", Status: http.StatusNotFound,
			Detail: "no resource at " + r.URL.Path,
		})
	})
	mux := http.NewServeMux()
	mux.Handle("/", console)
	mux.Handle("/v1/", p.gateway.Handler())
	mux.Handle("/openapi.json", p.gateway.Handler())
	mux.Handle("/asyncapi.json", p.gateway.Handler())
	// A web page of another origin must not steer the node through a browser.
	mux.Handle("/api/", http.NewCrossOriginProtection().Handler(api))
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, Registry: n.registry}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", n.readyz)
	return mux, nil
}

// info says who the node is and where it listens.
func (n *Node) info(w http.ResponseWriter, _ *http.Request) {
	httpd.WriteJSON(w, http.StatusOK, map[string]any{
		"site": n.cfg.Site, "node": n.cfg.Node, "version": n.version,
		"listeners": map[string]string{
			"gateway": n.url(listenGateway), "admin": n.url(listenAdmin), "nats": n.ClientURL(),
		},
	})
}

// readyz says whether the node takes events, and why not.
func (n *Node) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := n.mesh.Trouble(); err != nil {
		plain(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	var waiting []string
	for name, c := range map[string]<-chan struct{}{"mesh": n.mesh.Ready(), "roles": n.ready} {
		select {
		case <-c:
		default:
			waiting = append(waiting, name)
		}
	}
	if len(waiting) > 0 {
		plain(w, http.StatusServiceUnavailable, "waiting for "+strings.Join(waiting, ", "))
		return
	}
	plain(w, http.StatusOK, "ready")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // the prober is gone: nobody to tell
}
