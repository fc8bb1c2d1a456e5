package sns

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"weft.dev/weft/event"
)

// Attribute names beside ce_*.
const (
	attrContentType = "content-type"
	attrPacked      = "weft_headers"
	cePrefix        = "ce_"
	maxAttributes   = 10
)

// binaryMarker stands before the base64 of a binary value in a transport header,
// nameMarker before that of a name, as package event writes them.
const (
	binaryMarker = "=?b64?"
	nameMarker   = "Weft-Header-"
)

// pair is one message attribute; Binary values are rare and only read.
type pair struct{ name, value string }

// encode maps an event to a message: at most ten attributes and a body.
func encode(e event.Event) (attrs []pair, body string) {
	structured := !sendable(string(e.Data))
	body = string(e.Data)
	if structured {
		attrs = append(attrs, pair{cePrefix + "id", e.ID}, pair{cePrefix + "type", e.Type}, pair{cePrefix + "source", e.Source}, pair{attrContentType, event.MediaJSON})
		body = string(e.AppendJSON(nil))
	} else {
		attrs = ceAttributes(e)
	}
	return pack(attrs, e.Headers), body
}

// ceAttributes lists the attributes in the order in which they are kept.
func ceAttributes(e event.Event) []pair {
	out := []pair{
		{cePrefix + "id", e.ID},
		{cePrefix + "type", e.Type},
		{cePrefix + "source", e.Source},
		{cePrefix + "subject", e.Subject},
		{cePrefix + "specversion", event.SpecVersion},
		{cePrefix + "time", e.Time},
		{event.ExtTraceparent, e.Traceparent()},
		{attrContentType, e.DataContentType},
		{cePrefix + event.ExtCorrelationID, e.CorrelationID()},
		{cePrefix + "dataschema", e.DataSchema},
	}
	for _, name := range slices.Sorted(maps.Keys(e.Extensions)) {
		switch name {
		case event.ExtTraceparent, event.ExtCorrelationID:
		case event.ExtTracestate:
			out = append(out, pair{name, e.Extensions[name]})
		default:
			out = append(out, pair{cePrefix + name, e.Extensions[name]})
		}
	}
	return slices.DeleteFunc(out, func(p pair) bool { return p.value == "" })
}

// pack fits attributes and transport headers into ten attributes: what does not
// fit, repeats, or has a name or value SNS refuses goes into weft_headers.
func pack(attrs []pair, headers map[string][]string) []pair {
	packed := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		vs := headers[name]
		if len(vs) == 1 && sendableName(name) && sendable(vs[0]) {
			attrs = append(attrs, pair{name, vs[0]})
		} else if len(vs) > 0 {
			packed[name] = vs
		}
	}
	for len(attrs) > maxAttributes || (len(packed) > 0 && len(attrs) > maxAttributes-1) {
		last := attrs[len(attrs)-1]
		attrs = attrs[:len(attrs)-1]
		packed[last.name] = last.value
	}
	if len(packed) == 0 {
		return attrs
	}
	b, err := json.Marshal(packed)
	if err != nil {
		return attrs // strings always encode
	}
	return append(attrs, pair{attrPacked, string(b)})
}

// sendable reports whether SNS carries s: text that is not empty, of the
// characters XML 1.0 has.
func sendable(s string) bool {
	if s == "" || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return false
		}
	}
	return true
}

// sendableName applies the rules for attribute names; ours are taken.
func sendableName(s string) bool {
	lower := strings.ToLower(s)
	if s == "" || len(s) > 256 || strings.HasPrefix(lower, "aws.") || strings.HasPrefix(lower, "amazon.") ||
		strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") {
		return false
	}
	if _, ok := ceName(lower); ok || lower == attrContentType || lower == attrPacked || lower == event.ExtTraceparent || lower == event.ExtTracestate {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// ceName is the CloudEvents attribute that a lower-case name stands for.
func ceName(lower string) (string, bool) {
	if name, ok := strings.CutPrefix(lower, cePrefix); ok {
		return name, name != ""
	}
	name, ok := strings.CutPrefix(lower, "ce-")
	return name, ok && name != ""
}

// decode maps a message to an event. Whatever is no attribute of the event
// becomes a transport header. An error means a structured event that does not
// parse; the event then holds the body as data.
func decode(attrs map[string]string, body string) (event.Event, error) {
	e := event.Event{}
	names := slices.Sorted(maps.Keys(attrs))
	structured := false
	for _, name := range names {
		if lower := strings.ToLower(name); lower == attrContentType {
			e.DataContentType = attrs[name]
			structured = strings.HasPrefix(strings.ToLower(attrs[name]), event.MediaJSON)
		}
	}
	e.Data = []byte(body)
	if structured {
		var s event.Event
		if err := s.UnmarshalJSON([]byte(body)); err != nil {
			return e, err
		}
		e = s
	}
	for _, name := range names {
		if name == attrPacked {
			unpack(&e, attrs[name], structured)
			continue
		}
		assign(&e, name, attrs[name], structured)
	}
	return e, nil
}

// assign puts one attribute into the event; the attributes of a structured event
// stand in its body.
func assign(e *event.Event, name, value string, structured bool) {
	lower := strings.ToLower(name)
	attr, ok := ceName(lower)
	switch {
	case lower == attrContentType:
	case ok && structured:
	case ok:
		setAttribute(e, attr, value)
	case lower == event.ExtTraceparent, lower == event.ExtTracestate:
		if e.Extensions[lower] == "" {
			e.SetExtension(lower, value)
		}
	default:
		addHeader(e, name, value)
	}
}

func unpack(e *event.Event, text string, structured bool) {
	var packed map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &packed) != nil {
		addHeader(e, attrPacked, text)
		return
	}
	for name, raw := range packed {
		var one string
		var many []string
		switch {
		case json.Unmarshal(raw, &one) == nil:
			if strings.EqualFold(name, attrContentType) && !structured {
				e.DataContentType = one
			}
			assign(e, name, one, structured)
		case json.Unmarshal(raw, &many) == nil:
			for _, v := range many {
				addHeader(e, name, v)
			}
		}
	}
}

// addHeader keeps what is no attribute as a transport header. What NATS would
// change, drop or obey (a name with blanks or Nats-, a value of several lines)
// is kept in base64 behind the markers that package event knows.
func addHeader(e *event.Event, name, value string) {
	odd := strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
	if odd || name == "" || strings.HasPrefix(strings.ToLower(name), "nats-") {
		name = nameMarker + base64.RawURLEncoding.EncodeToString([]byte(name))
	}
	if !sendable(value) && value != "" || strings.TrimSpace(value) != value || strings.ContainsAny(value, "\r\n\t") {
		value = binaryMarker + encode64([]byte(value))
	}
	if e.Headers == nil {
		e.Headers = map[string][]string{}
	}
	e.Headers[name] = append(e.Headers[name], value)
}

func setAttribute(e *event.Event, name, value string) {
	switch name {
	case "specversion":
	case "id":
		e.ID = value
	case "source":
		e.Source = value
	case "type":
		e.Type = value
	case "subject":
		e.Subject = value
	case "time":
		e.Time = value
	case "datacontenttype":
		e.DataContentType = value
	case "dataschema":
		e.DataSchema = value
	default:
		e.SetExtension(name, value)
	}
}

// notification is what SQS gets from a topic without raw delivery.
type notification struct {
	Type, MessageId, TopicArn, Subject, Message string
	MessageAttributes                           map[string]struct{ Type, Value string }
}

// unwrap takes the message out of a notification. A body that is none is the
// message itself.
func unwrap(body string) (n notification, attrs map[string]string, ok bool) {
	if !strings.HasPrefix(strings.TrimSpace(body), "{") || !strings.Contains(body, `"TopicArn"`) {
		return n, nil, false
	}
	if json.Unmarshal([]byte(body), &n) != nil || n.Type != "Notification" || n.TopicArn == "" || n.MessageId == "" {
		return n, nil, false
	}
	attrs = make(map[string]string, len(n.MessageAttributes))
	for name, a := range n.MessageAttributes {
		v := a.Value
		if strings.HasPrefix(a.Type, "Binary") {
			if _, err := base64.StdEncoding.DecodeString(v); err == nil {
				v = binaryMarker + v
			}
		}
		attrs[name] = v
	}
	return n, attrs, true
}
