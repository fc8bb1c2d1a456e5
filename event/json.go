package event

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
)

// MarshalJSON is the CloudEvents JSON format (structured mode).
func (e Event) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// AppendJSON appends the CloudEvents JSON format on one line. JSON data stands
// as it is, text as a string, everything else as data_base64. Transport headers
// have no place in this format and are left out.
func (e Event) AppendJSON(b []byte) []byte {
	b = append(b, `{"specversion":"1.0"`...)
	for _, a := range [...]struct{ name, value string }{
		{"id", e.ID},
		{"source", e.Source},
		{"type", e.Type},
		{"subject", e.Subject},
		{"time", e.Time},
		{"datacontenttype", e.DataContentType},
		{"dataschema", e.DataSchema},
	} {
		if a.value != "" {
			b = appendMember(b, a.name, a.value)
		}
	}
	var few [8]string // on the stack
	names := few[:0]
	for name := range e.Extensions {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = appendMember(b, name, e.Extensions[name])
	}
	if len(e.Data) > 0 {
		b = e.appendData(b)
	}
	return append(b, '}')
}

func appendMember(b []byte, name, value string) []byte {
	b = append(b, ',')
	b = appendString(b, name)
	b = append(b, ':')
	return appendString(b, value)
}

func (e Event) appendData(b []byte) []byte {
	switch {
	case isJSON(e.DataContentType) && jsonValue(e.Data):
		b = append(b, `,"data":`...)
		if bytes.IndexByte(e.Data, '\n') < 0 && bytes.IndexByte(e.Data, '\r') < 0 {
			return append(b, e.Data...)
		}
		var line bytes.Buffer
		_ = json.Compact(&line, e.Data) // valid, so it cannot fail
		return append(b, line.Bytes()...)
	case isText(e.DataContentType) && utf8.Valid(e.Data):
		b = append(b, `,"data":`...)
		return appendString(b, string(e.Data))
	default:
		b = append(b, `,"data_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, e.Data)
		return append(b, '"')
	}
}

// jsonValue reports whether b can stand as the value of "data": JSON in UTF-8
// (json.Valid lets broken UTF-8 in strings pass, a WebSocket text frame does
// not) and not null, which would read as no data.
func jsonValue(b []byte) bool {
	return json.Valid(b) && utf8.Valid(b) && string(bytes.TrimSpace(b)) != "null"
}

// appendString appends s as a JSON string with the escapes of encoding/json,
// so that it may stand in HTML too. Broken UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			if c >= 0x20 && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
				continue
			}
			b = append(b, s[from:i-1]...)
			if at := strings.IndexByte("\"\\\b\f\n\r\t", c); at >= 0 {
				b = append(b, '\\', `"\bfnrt`[at])
			} else {
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			from = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || r == '\u2028' || r == '\u2029' {
			b = append(b, s[from:i]...)
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			from = i + size
		}
		i += size
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// isJSON: an absent content type means JSON (CloudEvents JSON format 3.1).
func isJSON(contentType string) bool {
	m := media(contentType)
	return m == "" || m == "application/json" || strings.HasSuffix(m, "/json") || strings.HasSuffix(m, "+json")
}

func isText(contentType string) bool {
	m := media(contentType)
	return strings.HasPrefix(m, "text/") || m == "application/xml" || strings.HasSuffix(m, "+xml")
}

// UnmarshalJSON reads the CloudEvents JSON format. Numbers and booleans in
// extensions become their canonical string form; of a member that stands twice
// the last one counts. Errors are *FieldError.
func (e *Event) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if !json.Valid(b) || b[0] != '{' {
		return rejected("body", "a CloudEvents JSON object")
	}
	out := Event{Headers: e.Headers}
	var data, data64 []byte
	version := false
	for rest := b[1:]; ; {
		var key, raw []byte
		if key, raw, rest = nextMember(rest); key == nil {
			break
		}
		name := memberName(key)
		switch name {
		case "data":
			data = raw
			continue
		case "data_base64":
			data64 = raw
			continue
		case "specversion":
			version = string(raw) != "null"
		}
		value, err := attributeValue(name, raw)
		if err == nil && (value != "" || name != "specversion") {
			err = out.set(name, value)
		}
		if err != nil {
			return err
		}
	}
	if !version {
		return rejected("specversion", `"1.0"`)
	}
	if err := out.readData(data, data64); err != nil {
		return err
	}
	*e = out
	return nil
}

func attributeValue(name string, raw []byte) (string, error) {
	switch c := raw[0]; {
	case c == '"':
		return unquoteJSON(raw), nil
	case c == 'n':
		return "", nil
	case required(name):
		return "", rejected(name, "a string")
	case c == 't', c == 'f':
		return string(raw), nil
	case c == '-' || c >= '0' && c <= '9':
		if bytes.ContainsAny(raw, ".eE") {
			return "", rejected(name, "an integer, not a fraction")
		}
		return string(raw), nil
	}
	return "", rejected(name, "a string, a boolean or an integer")
}

func required(name string) bool {
	switch name {
	case "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema":
		return true
	}
	return false
}

func (e *Event) readData(data, data64 []byte) error {
	if data != nil && data64 != nil {
		return rejected("data_base64", "no data beside it: an event has one of the two")
	}
	if data64 != nil {
		if data64[0] != '"' {
			return rejected("data_base64", "a base64 string")
		}
		raw, err := base64.StdEncoding.DecodeString(unquoteJSON(data64))
		if err != nil {
			return rejected("data_base64", "a base64 string")
		}
		e.Data = raw
		return nil
	}
	if len(data) == 0 || string(data) == "null" {
		return nil
	}
	if data[0] == '"' && !isJSON(e.DataContentType) {
		e.Data = []byte(unquoteJSON(data))
		return nil
	}
	e.Data = bytes.Clone(data)
	return nil
}

// MarshalBatch is the CloudEvents JSON batch format.
func MarshalBatch(events []Event) []byte {
	b := []byte{'['}
	for i, e := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = e.AppendJSON(b)
	}
	return append(b, ']')
}
