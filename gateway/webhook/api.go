package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook/sign"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/httpd"
)

const (
	apiPath  = "/v1/webhooks"
	maxBody  = 64 << 10
	listPage = 100
)

// view is an endpoint as the API shows it: no key, no header value.
type view struct {
	ID          string            `json:"id"`
	URL         string            `json:"url"`
	Subjects    []string          `json:"subjects"`
	Description string            `json:"description,omitempty"`
	Mode        Mode              `json:"mode"`
	Headers     map[string]string `json:"headers,omitempty"`
	Timeout     string            `json:"timeout"`
	Signatures  []sign.Version    `json:"signatures"`
	Traceparent bool              `json:"traceparent"`
	Disabled    bool              `json:"disabled"`
	Secret      string            `json:"secret,omitempty"`      // on create and rotate only
	PublicKey   string            `json:"publicKey,omitempty"`   // verifies v1a
	KeysUntil   []time.Time       `json:"oldKeysUntil,omitzero"` // older keys that still sign
	Created     time.Time         `json:"created"`
	Updated     time.Time         `json:"updated"`
	Status      *Status           `json:"status,omitempty"`
}

// redacted stands for a header's value. A client that sends it back keeps the
// value.
const redacted = "[redacted]"

func show(ep *endpoint, now time.Time) view {
	v := view{
		ID: ep.ID, URL: ep.URL, Subjects: ep.Subjects, Description: ep.Description, Mode: ep.Mode,
		Timeout: ep.Timeout.String(), Signatures: ep.Signatures, Traceparent: ep.Traceparent,
		Disabled: ep.Disabled, Created: ep.Created, Updated: ep.Updated,
	}
	for name := range ep.Headers {
		if v.Headers == nil {
			v.Headers = map[string]string{}
		}
		v.Headers[name] = redacted
	}
	if k, ok := ep.current(sign.V1A); ok {
		v.PublicKey = k.Public()
	}
	for _, k := range ep.Keys {
		if k.Until.After(now) {
			v.KeysUntil = append(v.KeysUntil, k.Until)
		}
	}
	return v
}

// change is the body of create, replace and patch; nil means not given.
type change struct {
	URL         *string            `json:"url"`
	Subjects    *[]string          `json:"subjects"`
	Description *string            `json:"description"`
	Mode        *Mode              `json:"mode"`
	Headers     *map[string]string `json:"headers"`
	Timeout     *string            `json:"timeout"`
	Signatures  *[]sign.Version    `json:"signatures"`
	Traceparent *bool              `json:"traceparent"`
	Disabled    *bool              `json:"disabled"`
	Secret      *string            `json:"secret"` // create only
}

func set[T any](into, from *T) {
	if from != nil {
		*into = *from
	}
}

func (c change) apply(s *Spec) error {
	set(&s.URL, c.URL)
	set(&s.Subjects, c.Subjects)
	set(&s.Description, c.Description)
	set(&s.Mode, c.Mode)
	set(&s.Headers, c.Headers)
	set(&s.Signatures, c.Signatures)
	set(&s.Traceparent, c.Traceparent)
	set(&s.Disabled, c.Disabled)
	if c.Timeout != nil {
		if err := s.Timeout.UnmarshalText([]byte(*c.Timeout)); err != nil || s.Timeout == 0 {
			return event.Reject("timeout", "a duration such as 15s")
		}
	}
	return nil
}

// Handler serves the API under /v1/webhooks and the console's list under
// /api/webhooks. It authenticates nobody; what mounts it does.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, methods map[string]apiFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, methods) })
	}
	handle(apiPath, map[string]apiFunc{http.MethodGet: s.list, http.MethodPost: s.create})
	handle("/api/webhooks", map[string]apiFunc{http.MethodGet: s.list})
	handle(apiPath+"/{id}", map[string]apiFunc{
		http.MethodGet: s.show, http.MethodPut: s.replace, http.MethodPatch: s.patch, http.MethodDelete: s.remove,
	})
	handle(apiPath+"/{id}/test", map[string]apiFunc{http.MethodPost: s.test})
	handle(apiPath+"/{id}/rotate", map[string]apiFunc{http.MethodPost: s.rotate})
	handle(apiPath+"/{id}/replay", map[string]apiFunc{http.MethodPost: s.replay})
	handle(apiPath+"/{id}/attempts", map[string]apiFunc{http.MethodGet: s.attempts})
	handle("/", nil)
	return mux
}

// apiFunc answers one call with a status and a body for JSON.
type apiFunc func(w http.ResponseWriter, r *http.Request, st *stores) (status int, body any, err error)

func (s *Service) serve(w http.ResponseWriter, r *http.Request, methods map[string]apiFunc) {
	f := methods[r.Method]
	if r.Method == http.MethodHead {
		f = methods[http.MethodGet]
	}
	switch {
	case methods == nil:
		httpd.WriteProblem(w, httpd.Problem{Type: "not-found", Status: http.StatusNotFound, Detail: "there is nothing at " + r.URL.Path})
		return
	case f == nil:
		allow := make([]string, 0, len(methods))
		for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if methods[m] != nil {
				allow = append(allow, m)
			}
		}
		w.Header().Set("Allow", strings.Join(allow, ", "))
		httpd.WriteProblem(w, httpd.Problem{Type: "method", Status: http.StatusMethodNotAllowed, Detail: "allowed are " + strings.Join(allow, ", ")})
		return
	}
	st := s.stores.Load()
	if st == nil {
		httpd.WriteProblem(w, httpd.Problem{
			Type: "unavailable", Status: http.StatusServiceUnavailable, RetryAfter: time.Second,
			Detail: "the node is starting; webhooks are not loaded yet",
		})
		return
	}
	status, body, err := f(w, r, st)
	switch {
	case err != nil:
		s.fail(w, r, err)
	case body == nil:
		w.WriteHeader(status)
	default:
		httpd.WriteJSON(w, status, body)
	}
}

func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := httpd.ProblemOf(err)
	switch {
	case errors.Is(err, errNotFound):
		p = httpd.Problem{Type: "not-found", Status: http.StatusNotFound, Detail: "there is no webhook " + r.PathValue("id")}
	case errors.Is(err, jetstream.ErrKeyExists):
		p = httpd.Problem{Type: "conflict", Status: http.StatusConflict, Detail: "the webhook was changed at the same time; read it and try again"}
	case p.Status == http.StatusInternalServerError && unavailable(err):
		p = httpd.ProblemOf(bus.ErrUnavailable)
		p.Title, p.Detail = "The mesh could not be asked now", "try again"
	}
	if p.Status >= http.StatusInternalServerError {
		s.Deps.Log.WarnContext(r.Context(), "webhook call failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	httpd.WriteProblem(w, p)
}

// unavailable tells a store that does not answer from a mistake of ours.
func unavailable(err error) bool {
	_, ok := errors.AsType[jetstream.JetStreamError](err)
	return ok || errors.Is(err, context.DeadlineExceeded)
}

// body decodes a JSON body strictly; absent is allowed when optional.
func body(w http.ResponseWriter, r *http.Request, optional bool, v any) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return event.TooLarge("body", "a JSON object", maxBody)
		}
		return event.Reject("body", "a complete JSON object")
	}
	if optional && len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && te.Field != "" {
			return event.Reject(te.Field, "a "+te.Type.String())
		}
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return event.Reject(strings.Trim(name, `"`), "no such field; see the API description")
		}
		return event.Reject("body", "a JSON object: "+err.Error())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return event.Reject("body", "one JSON object and nothing after it")
	}
	return nil
}

func (s *Service) create(w http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	var c change
	if err := body(w, r, false, &c); err != nil {
		return 0, nil, err
	}
	now := time.Now().UTC()
	ep := &endpoint{ID: newID(), Created: now, Updated: now}
	if err := c.apply(&ep.Spec); err != nil {
		return 0, nil, err
	}
	if err := ep.restore(nil); err != nil {
		return 0, nil, err
	}
	if err := ep.check(s.policy, s.cfg); err != nil {
		return 0, nil, err
	}
	secret := sign.Generate(sign.V1)
	if c.Secret != nil {
		var err error
		if secret, err = parseSecret(*c.Secret); err != nil {
			return 0, nil, err
		}
	}
	if len(st.ids()) >= s.cfg.MaxEndpoints {
		return 0, nil, httpd.Problem{
			Type: "limit", Status: http.StatusConflict, Limit: s.cfg.MaxEndpoints,
			Detail: "the site has as many webhooks as gateway.webhooks.maxEndpoints allows",
		}
	}
	info, err := s.Source.Info(r.Context())
	if err != nil {
		return 0, nil, err
	}
	ep.After = info.Last
	ep.Keys = []key{{Text: secret.Text()}, {Text: sign.Generate(sign.V1A).Text()}}
	if err := st.put(r.Context(), ep); err != nil {
		return 0, nil, err
	}
	s.Deps.Log.InfoContext(r.Context(), "webhook created", "endpoint", ep.ID, "url", publicURL(ep.URL), "subjects", ep.Subjects)
	w.Header().Set("Location", apiPath+"/"+ep.ID)
	ep, err = decodeAgain(ep)
	if err != nil {
		return 0, nil, err
	}
	v := show(ep, now)
	v.Secret = secret.Text()
	return http.StatusCreated, v, nil
}

// decodeAgain parses the keys of an endpoint that was just made.
func decodeAgain(ep *endpoint) (*endpoint, error) {
	data, err := json.Marshal(ep)
	if err != nil {
		return nil, err
	}
	return decodeEndpoint(data, ep.revision)
}

func parseSecret(text string) (sign.Key, error) {
	k, err := sign.Parse(text)
	if err != nil || k.Version() != sign.V1 {
		return sign.Key{}, event.Reject("secret", "whsec_ and the base64 of 24 to 64 bytes")
	}
	return k, nil
}

// list answers a page of endpoints with their status, in the order they were
// created.
func (s *Service) list(_ http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	all := st.list()
	start := 0
	if after := r.URL.Query().Get("after"); after != "" {
		start = len(all)
		for i, ep := range all {
			if ep.ID == after {
				start = i + 1
			}
		}
		if start == len(all) && (len(all) == 0 || all[len(all)-1].ID != after) {
			return 0, nil, event.Reject("after", "the id of the last webhook of the page before")
		}
	}
	now, end := time.Now(), min(start+listPage, len(all))
	page := struct {
		Webhooks []view `json:"webhooks"`
		Total    int    `json:"total"`
		After    string `json:"after,omitempty"` // ask for the next page with it
	}{Webhooks: make([]view, 0, end-start), Total: len(all)}
	ids := make([]string, 0, end-start)
	for _, ep := range all[start:end] {
		ids = append(ids, ep.ID)
	}
	statuses := s.statusOf(r.Context(), st, ids)
	for _, ep := range all[start:end] {
		v, status := show(ep, now), statuses[ep.ID]
		v.Status = &status
		page.Webhooks = append(page.Webhooks, v)
	}
	if end < len(all) {
		page.After = all[end-1].ID
	}
	return http.StatusOK, page, nil
}

func (s *Service) show(_ http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	ep, err := st.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	v, status := show(ep, time.Now()), s.statusOf(r.Context(), st, []string{ep.ID})[ep.ID]
	v.Status = &status
	return http.StatusOK, v, nil
}

func (s *Service) replace(w http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	return s.edit(w, r, st, true)
}

func (s *Service) patch(w http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	return s.edit(w, r, st, false)
}

func (s *Service) edit(w http.ResponseWriter, r *http.Request, st *stores, whole bool) (int, any, error) {
	var c change
	if err := body(w, r, false, &c); err != nil {
		return 0, nil, err
	}
	if c.Secret != nil {
		return 0, nil, event.Reject("secret", "no secret here; use "+apiPath+"/{id}/rotate")
	}
	ep, err := st.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	kept := ep.Headers
	if whole {
		ep.Spec = Spec{}
	}
	if err := c.apply(&ep.Spec); err != nil {
		return 0, nil, err
	}
	if err := ep.restore(kept); err != nil {
		return 0, nil, err
	}
	if err := ep.check(s.policy, s.cfg); err != nil {
		return 0, nil, err
	}
	if !ep.Disabled && (whole || c.Disabled != nil) {
		ep.Enabled++ // also brings back an endpoint that was disabled for its failures
	}
	ep.Updated = time.Now().UTC()
	if err := st.put(r.Context(), ep); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, show(ep, ep.Updated), nil
}

func (s *Service) remove(_ http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	ep, err := st.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	if err := st.remove(r.Context(), ep.ID); err != nil {
		return 0, nil, err
	}
	s.Deps.Log.InfoContext(r.Context(), "webhook deleted", "endpoint", ep.ID)
	return http.StatusNoContent, nil, nil
}

func (s *Service) rotate(w http.ResponseWriter, r *http.Request, st *stores) (int, any, error) {
	c := struct {
		Grace  *string `json:"grace"`
		Secret *string `json:"secret"`
	}{}
	if err := body(w, r, true, &c); err != nil {
		return 0, nil, err
	}
	grace := conf.Duration(defaultGrace)
	if c.Grace != nil {
		if err := grace.UnmarshalText([]byte(*c.Grace)); err != nil || grace.Std() > maxGrace {
			return 0, nil, event.Reject("grace", "a duration from 0s to 7d, during which the old keys sign too")
		}
	}
	secret := sign.Generate(sign.V1)
	if c.Secret != nil {
		var err error
		if secret, err = parseSecret(*c.Secret); err != nil {
			return 0, nil, err
		}
	}
	ep, err := st.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	now := time.Now().UTC()
	ep.rotate(secret, grace.Std(), now)
	ep.rotate(sign.Generate(sign.V1A), grace.Std(), now)
	ep.Updated = now
	if err := st.put(r.Context(), ep); err != nil {
		return 0, nil, err
	}
	v := show(ep, now)
	v.Secret = secret.Text()
	return http.StatusOK, v, nil
}
