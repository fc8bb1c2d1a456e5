package trace

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Finder is what the API needs of Query.
type Finder interface {
	Recent(ctx context.Context, f Filter) Recent
	Journey(ctx context.Context, id string) (j *Journey, silent []string)
}

// Handler serves the JSON API of journeys:
//
//	GET /api/journeys?q=&errors=true&limit=50   Recent
//	GET /api/journeys/{id}                      Journey; id is a trace, correlation or event id (percent-encoded)
func Handler(f Finder, log *slog.Logger) http.Handler {
	a := api{f, log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/journeys", a.recent)
	mux.HandleFunc("GET /api/journeys/{id...}", a.journey)
	return mux
}

type api struct {
	finder Finder
	log    *slog.Logger
}

func (a api) recent(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := Filter{Query: q.Get("q")}
	var err error
	if text := q.Get("limit"); text != "" {
		if f.Limit, err = strconv.Atoi(text); err != nil || f.Limit < 1 {
			a.problem(w, http.StatusBadRequest, "limit", "limit must be a whole number from 1 to 500, not "+strconv.Quote(text))
			return
		}
	}
	if text := q.Get("errors"); text != "" {
		if f.Errors, err = strconv.ParseBool(text); err != nil {
			a.problem(w, http.StatusBadRequest, "errors", "errors must be true or false, not "+strconv.Quote(text))
			return
		}
	}
	recent := a.finder.Recent(r.Context(), f)
	if recent.Journeys == nil {
		recent.Journeys = []Summary{}
	}
	a.write(w, http.StatusOK, "application/json", recent)
}

func (a api) journey(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	j, silent := a.finder.Journey(r.Context(), id)
	switch {
	case j != nil:
		a.write(w, http.StatusOK, "application/json", j)
	case len(silent) > 0:
		a.problem(w, http.StatusNotFound, "id", "no journey "+strconv.Quote(id)+" at the sites that answered; no answer from "+strings.Join(silent, ", "))
	default:
		a.problem(w, http.StatusNotFound, "id", "no journey "+strconv.Quote(id)+": not sampled, dropped from the store by age or size, or never seen")
	}
}

func (a api) problem(w http.ResponseWriter, status int, field, detail string) {
	a.write(w, status, "application/problem+json", map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail, "field": field,
	})
}

func (a api) write(w http.ResponseWriter, status int, contentType string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		a.log.Error("answer not encoded", "err", err)
		http.Error(w, "answer not encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := w.Write(data); err != nil {
		a.log.Debug("answer not written", "err", err)
	}
}

// maxIngest bounds one OTLP request, unpacked.
const maxIngest = 16 << 20

// Ingest takes OTLP over HTTP in protobuf at POST /v1/traces, for services of the site that have their own
// OpenTelemetry SDK, and hands it to next.
func Ingest(next otlptrace.Client, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		batch, status, err := readOTLP(r)
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		if err := next.UploadTraces(r.Context(), batch); err != nil {
			log.Warn("spans not taken", "err", err)
			w.Header().Set("Retry-After", "1")
			http.Error(w, "spans not taken, try again", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf") // an empty ExportTraceServiceResponse has no bytes
		w.WriteHeader(http.StatusOK)
	})
	return mux
}

func readOTLP(r *http.Request) ([]*tracepb.ResourceSpans, int, error) {
	if t := r.Header.Get("Content-Type"); t != "application/x-protobuf" {
		return nil, http.StatusUnsupportedMediaType, fmt.Errorf("content type %q: send application/x-protobuf (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf)", t)
	}
	var body io.Reader = r.Body
	switch enc := r.Header.Get("Content-Encoding"); enc {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("body is not gzip: %w", err)
		}
		body = z
	default:
		return nil, http.StatusUnsupportedMediaType, fmt.Errorf("content encoding %q: send gzip or none", enc)
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxIngest+1))
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("read body: %w", err)
	}
	if len(raw) > maxIngest {
		return nil, http.StatusRequestEntityTooLarge, errors.New("body is over 16 MiB unpacked")
	}
	var data tracepb.TracesData
	if err := proto.Unmarshal(raw, &data); err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("body is no ExportTraceServiceRequest: %w", err)
	}
	return data.GetResourceSpans(), http.StatusOK, nil
}
