package event

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
)

// Mode is the form of an event in an HTTP body.
type Mode int

// The four forms that Weft reads.
const (
	Raw        Mode = iota // any body as data, no attributes
	Binary                 // ce- headers, body is the data
	Structured             // application/cloudevents+json
	Batched                // application/cloudevents-batch+json
)

// Media types of the CloudEvents JSON format.
const (
	MediaJSON  = "application/cloudevents+json"
	MediaBatch = "application/cloudevents-batch+json"
)

// MaxBatch is the number of events taken in one batched body.
const MaxBatch = 1000

const (
	httpPrefix      = "Ce-" // in the canonical case of net/http
	httpMedia       = "application/cloudevents"
	httpContentType = "Content-Type"
)

// ModeOf tells from the headers which form a body has. A cloudevents media type
// that is not JSON is ErrUnsupported.
func ModeOf(h map[string][]string) (Mode, error) {
	if v := h[httpContentType]; len(v) > 0 && len(v[0]) >= len(httpMedia) && foldsTo(v[0][:len(httpMedia)], httpMedia) {
		switch m := media(v[0]); {
		case m == MediaJSON:
			return Structured, nil
		case m == MediaBatch:
			return Batched, nil
		default:
			return Raw, unsupported("Content-Type", MediaJSON+" or "+MediaBatch)
		}
	}
	for k := range h {
		if _, ok := attributeName(k, natsPrefix); ok {
			return Binary, nil
		}
	}
	return Raw, nil
}

// FromHTTP decodes an HTTP message with canonical header names. Raw and binary
// bodies are kept, not copied. The events are not yet filled or validated.
func FromHTTP(h map[string][]string, body []byte) ([]Event, Mode, error) {
	mode, err := ModeOf(h)
	if err != nil {
		return nil, mode, err
	}
	switch mode {
	case Batched:
		events, err := parseBatch(body)
		return events, mode, err
	case Structured:
		var e Event
		err := e.UnmarshalJSON(body)
		return []Event{e}, mode, err
	}
	e := Event{Data: body}
	if v := h[httpContentType]; len(v) > 0 {
		e.DataContentType = v[0]
	}
	if mode == Binary {
		for k, vs := range h {
			name, ok := attributeName(k, natsPrefix)
			if !ok || len(vs) == 0 || name == "datacontenttype" && e.DataContentType != "" {
				continue
			}
			if err := e.set(name, percentDecode(vs[0])); err != nil {
				return nil, mode, err
			}
		}
	}
	return []Event{e}, mode, nil
}

func parseBatch(body []byte) ([]Event, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, rejected("body", "a JSON array of CloudEvents")
	}
	if len(raw) == 0 {
		return nil, rejected("body", "at least one event")
	}
	if len(raw) > MaxBatch {
		return nil, tooLarge("body", "at most "+strconv.Itoa(MaxBatch)+" events", MaxBatch)
	}
	events := make([]Event, len(raw))
	for i, r := range raw {
		if err := events[i].UnmarshalJSON(r); err != nil {
			return nil, inItem(i, err)
		}
	}
	return events, nil
}

// inItem puts the position in a batch in front of the field's name.
func inItem(i int, err error) error {
	if fe, ok := errors.AsType[*FieldError](err); ok {
		c := *fe
		c.Field = "[" + strconv.Itoa(i) + "]." + fe.Field
		return &c
	}
	return err
}

// HTTP encodes the event in binary mode: percent-encoded Ce- headers with
// canonical names, and the data as body.
func (e Event) HTTP() (header map[string][]string, body []byte) {
	n := 8 + len(e.Extensions)
	h := make(map[string][]string, n)
	values := make([]string, 0, n)
	e.each(func(name, value string) {
		if name != "datacontenttype" { // Content-Type stands as it is
			value = percentEncode(value)
		}
		values = append(values, value)
		i := len(values)
		h[httpHeader(name)] = values[i-1 : i : i]
	})
	return h, e.Data
}

// httpHeader is the canonical header name of an attribute; it avoids building
// the names every event carries.
func httpHeader(name string) string {
	switch name {
	case "specversion":
		return "Ce-Specversion"
	case "id":
		return "Ce-Id"
	case "source":
		return "Ce-Source"
	case "type":
		return "Ce-Type"
	case "time":
		return "Ce-Time"
	case "datacontenttype":
		return httpContentType
	case ExtCorrelationID:
		return "Ce-Correlationid"
	case ExtTraceparent:
		return "Ce-Traceparent"
	}
	if name == "" {
		return httpPrefix
	}
	return httpPrefix + strings.ToUpper(name[:1]) + name[1:]
}
