package gateway

import (
	_ "embed"
	"net/http"
	"net/url"
	"strings"

	"weft.dev/weft/internal/httpd"
)

// The machine-readable descriptions of the API. A test holds them against the
// server.
var (
	//go:embed openapi.json
	openAPI []byte
	//go:embed asyncapi.json
	asyncAPI []byte
)

// routes is the public API.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/events/{subject}", s.intake)
	mux.HandleFunc("GET /v1/events", s.serveSSE)
	mux.HandleFunc("GET /v1/ws", s.serveWS)
	mux.HandleFunc("GET /openapi.json", document(openAPI))
	mux.HandleFunc("GET /asyncapi.json", document(asyncAPI))
	for pattern, h := range s.deps.Mount {
		mux.Handle(pattern, h)
	}
	mux.HandleFunc("/v1/events/{subject}", notAllowed("POST"))
	mux.HandleFunc("/v1/events", notAllowed("GET", "POST to /v1/events/{subject}"))
	mux.HandleFunc("/v1/ws", notAllowed("GET"))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		httpd.WriteProblem(w, httpd.Problem{
			Type: "not-found", Title: "There is nothing here", Status: http.StatusNotFound,
			Detail: "no resource at " + r.URL.Path + "; see /openapi.json",
		})
	})
	return s.origins.guard(mux)
}

func document(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the client is gone: nothing to tell it
	}
}

// notAllowed answers a wrong method; the first word of what is allowed is the
// method for Allow.
func notAllowed(allowed string, also ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allowed)
		httpd.WriteProblem(w, httpd.Problem{
			Type: "method-not-allowed", Title: "The method is not allowed here", Status: http.StatusMethodNotAllowed,
			Detail: r.Method + ": want " + strings.Join(append([]string{allowed}, also...), ", "),
		})
	}
}

// origins is the web origins that may call beside the gateway's own.
type origins struct {
	all     bool
	allowed map[string]bool
}

func newOrigins(list []string) origins {
	o := origins{allowed: make(map[string]bool)}
	for _, origin := range list {
		o.all = o.all || origin == "*"
		o.allowed[strings.ToLower(origin)] = true
	}
	return o
}

// allows reports whether a request may come from where it does. Without an
// Origin it comes from no web page.
func (o origins) allows(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || o.all || o.allowed[strings.ToLower(origin)] {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// guard refuses web pages of foreign origins, which could otherwise publish to
// and read from a gateway on loopback, and speaks CORS with those allowed.
func (o origins) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header["Origin"]
		if len(origin) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		if !o.allows(r) {
			httpd.WriteProblem(w, httpd.Problem{
				Type: "forbidden-origin", Title: "This web origin may not call the gateway", Status: http.StatusForbidden,
				Field: "Origin", Detail: "Origin: want the gateway's own origin or one listed in gateway.origins, not " + origin[0],
			})
			return
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", origin[0])
		h.Set("Access-Control-Expose-Headers", "X-Correlation-Id, X-Request-Id, Retry-After")
		h.Add("Vary", "Origin")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
			h.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}
