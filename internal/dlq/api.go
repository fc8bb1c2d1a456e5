package dlq

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/httpd"
)

const maxRequest = 64 << 10

// listed is the answer of GET /api/dlq.
type listed struct {
	Entries []Entry `json:"entries"`
	Next    uint64  `json:"next,omitempty"` // pass as after for more
}

// shown is the answer of GET /api/dlq/{seq}: the entry and all of its event.
type shown struct {
	Entry
	Event   json.RawMessage     `json:"event"` // CloudEvents JSON
	Headers map[string][]string `json:"headers,omitempty"`
}

// Handler is the admin API of the dead letters:
//
//	GET    /api/dlq?owner=&after=&max=  list, oldest first
//	GET    /api/dlq/{seq}               one with its event
//	DELETE /api/dlq/{seq}               forget it
//	POST   /api/dlq/replay              Replay as JSON
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/dlq", s.serveList)
	mux.HandleFunc("GET /api/dlq/{seq}", s.serveShow)
	mux.HandleFunc("DELETE /api/dlq/{seq}", s.serveDelete)
	mux.HandleFunc("POST /api/dlq/replay", s.serveReplay)
	return mux
}

func (s *Store) serveList(w http.ResponseWriter, r *http.Request) {
	q := Query{Owner: r.FormValue("owner")}
	var err error
	if v := r.FormValue("after"); v != "" {
		if q.After, err = strconv.ParseUint(v, 10, 64); err != nil {
			s.fail(w, r, event.Reject("after", "the number of a dead letter"))
			return
		}
	}
	if v := r.FormValue("max"); v != "" {
		if q.Max, err = strconv.Atoi(v); err != nil || q.Max < 1 || q.Max > limitMax {
			s.fail(w, r, event.Reject("max", "a number from 1 to "+strconv.Itoa(limitMax)))
			return
		}
	}
	entries, next, err := s.List(r.Context(), q)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	httpd.WriteJSON(w, http.StatusOK, listed{entries, next})
}

func (s *Store) serveShow(w http.ResponseWriter, r *http.Request) {
	seq, err := number(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	e, err := s.Show(r.Context(), seq)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	httpd.WriteJSON(w, http.StatusOK, shown{Entry: e, Event: e.Event.AppendJSON(nil), Headers: e.Event.Headers})
}

func (s *Store) serveDelete(w http.ResponseWriter, r *http.Request) {
	seq, err := number(r)
	if err == nil {
		err = s.Delete(r.Context(), seq)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Store) serveReplay(w http.ResponseWriter, r *http.Request) {
	var in Replay
	if err := httpd.ReadJSON(w, r, maxRequest, &in); err != nil {
		s.fail(w, r, err)
		return
	}
	results, err := s.Replay(r.Context(), in)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	httpd.WriteJSON(w, http.StatusOK, map[string]any{"dryRun": in.DryRun, "results": results})
}

func number(r *http.Request) (uint64, error) {
	seq, err := strconv.ParseUint(r.PathValue("seq"), 10, 64)
	if err != nil {
		return 0, event.Reject("seq", "the number of a dead letter")
	}
	return seq, nil
}

func (s *Store) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, ErrNotFound) {
		httpd.WriteProblem(w, httpd.Problem{Type: "not-found", Status: http.StatusNotFound, Detail: err.Error()})
		return
	}
	p := httpd.ProblemOf(err)
	if p.Status >= http.StatusInternalServerError {
		s.Log.ErrorContext(r.Context(), "dead letters not served", "err", err)
	}
	httpd.WriteProblem(w, p)
}
