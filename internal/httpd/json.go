package httpd

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"weft.dev/weft/event"
)

// AppendString appends s as a JSON string; plain ASCII costs no allocation.
func AppendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			q, _ := json.Marshal(s) // a string cannot fail
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		WriteProblem(w, ProblemOf(err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client is gone: nothing to tell it
}

// ReadJSON decodes a request body of at most limit bytes into v, strictly: an
// unknown member and anything after the value are the caller's fault. The
// error is for ProblemOf.
func ReadJSON(w http.ResponseWriter, r *http.Request, limit int, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, int64(limit)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return bodyError(err, limit)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return event.Reject("body", "one JSON value and nothing after it")
	}
	return nil
}

func bodyError(err error, limit int) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge("body", limit)
	}
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && te.Field != "" {
		return event.Reject(te.Field, "a "+te.Type.String())
	}
	return event.Reject("body", "a JSON object as documented: "+err.Error())
}
