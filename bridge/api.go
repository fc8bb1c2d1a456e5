package bridge

import (
	"errors"
	"net/http"

	"weft.dev/weft/internal/httpd"
)

// Handler is the admin API of the bridges:
//
//	GET  /api/bridges               Status of each
//	GET  /api/bridges/check         Checked of each
//	POST /api/bridges/{name}/pause  stop it after what it holds
//	POST /api/bridges/{name}/resume let it go on
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/bridges", func(w http.ResponseWriter, r *http.Request) {
		httpd.WriteJSON(w, http.StatusOK, map[string]any{"bridges": s.Status(r.Context())})
	})
	mux.HandleFunc("GET /api/bridges/check", func(w http.ResponseWriter, r *http.Request) {
		httpd.WriteJSON(w, http.StatusOK, map[string]any{"bridges": s.Check(r.Context())})
	})
	mux.HandleFunc("POST /api/bridges/{name}/pause", func(w http.ResponseWriter, r *http.Request) { s.order(w, r, s.Pause) })
	mux.HandleFunc("POST /api/bridges/{name}/resume", func(w http.ResponseWriter, r *http.Request) { s.order(w, r, s.Resume) })
	return mux
}

func (s *Service) order(w http.ResponseWriter, r *http.Request, do func(string) error) {
	err := do(r.PathValue("name"))
	switch {
	case errors.Is(err, ErrUnknown):
		httpd.WriteProblem(w, httpd.Problem{Type: "not-found", Status: http.StatusNotFound, Detail: err.Error()})
	case err != nil:
		httpd.WriteProblem(w, httpd.ProblemOf(err))
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
