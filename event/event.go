// Package event is Weft's event model: the CloudEvents 1.0 envelope, its codecs
// for HTTP, NATS, Kafka and JSON, subjects and patterns, cursors and the
// correlation rules. It does no I/O and imports only the standard library.
//
// It is the one package with a compatibility promise: together with nats.go it
// is Weft's Go SDK.
package event

import (
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of an event (DESIGN: defaults that every entry point enforces).
const (
	MaxData      = 1 << 20  // bytes of data; the server's max_payload allows this much beside the headers
	MaxHeaders   = 16 << 10 // bytes of all attributes and transport headers
	MaxSubject   = 255      // bytes of a Weft subject
	MaxTokens    = 16       // tokens of a Weft subject
	MaxAttribute = 4 << 10  // bytes of one attribute value
)

// SpecVersion is the CloudEvents version Weft speaks.
const SpecVersion = "1.0"

// Event is a CloudEvents 1.0 event. The zero value of an optional attribute
// means absent. An Event is a value: copying it shares Data and the maps, which
// nobody changes after the event was accepted.
type Event struct {
	ID              string // unique within Source
	Source          string // URI-reference of the producer
	Type            string
	DataContentType string // RFC 2046 media type of Data
	DataSchema      string // URI
	Subject         string // the CloudEvents subject, not the Weft subject
	Time            string // RFC 3339, kept as the producer wrote it
	// Extensions holds the CloudEvents extension attributes by lower-case name,
	// each in its canonical string form.
	Extensions map[string]string
	// Headers holds what the transport carried beside the attributes (headers of
	// a native NATS client, Kafka headers, Weft-Key). They pass through untouched.
	Headers map[string][]string
	Data    []byte
}

// Defaults is what Fill writes where the producer left a required attribute out.
type Defaults struct {
	Subject string    // Weft subject: becomes Type
	Source  string    // such as "/weft/fra"
	Now     time.Time // becomes Time and the time part of the ID
}

// Fill sets the missing id (UUIDv7), source, type and time. It never changes
// what the producer set.
func (e *Event) Fill(d Defaults) {
	if e.ID == "" {
		e.ID = NewID(d.Now)
	}
	if e.Source == "" {
		e.Source = d.Source
	}
	if e.Type == "" {
		e.Type = d.Subject
	}
	if e.Time == "" {
		e.Time = d.Now.UTC().Format("2006-01-02T15:04:05.000000Z")
	}
}

// Key identifies the event everywhere: source and id, both percent-encoded as
// in a header, and any slash of the id too, so that two events never share a
// key and NATS keeps every byte of it. It is the Nats-Msg-Id.
func (e Event) Key() string {
	id := percentEncode(e.ID)
	if strings.Contains(id, "/") {
		id = strings.ReplaceAll(id, "/", "%2F")
	}
	return percentEncode(e.Source) + "/" + id
}

// Timestamp parses Time. It is the zero time when the event has none.
func (e Event) Timestamp() (time.Time, error) {
	if e.Time == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, e.Time)
}

// Stored is an event where it stands in a site's stream.
type Stored struct {
	Event
	Path     string    // Weft subject it was published on, such as orders.created
	Origin   string    // site that accepted it
	Seq      uint64    // position in the reading site's stream
	StoredAt time.Time // when the reading site stored it
	Accepted time.Time // when the origin accepted it; StoredAt if unknown
}

// Validate checks every attribute against CloudEvents 1.0 and the limits. The
// error is a *FieldError that names the first attribute at fault.
func (e Event) Validate() error {
	if len(e.Data) > MaxData {
		return tooLarge("data", "at most "+strconv.Itoa(MaxData)+" bytes", MaxData)
	}
	for _, a := range [...]struct{ name, value string }{{"id", e.ID}, {"source", e.Source}, {"type", e.Type}} {
		if a.value == "" {
			return rejected(a.name, "a value: the attribute is required")
		}
	}
	size := 0
	var err error
	e.each(func(name, value string) {
		size += len(name) + len(value) + 8
		if err == nil {
			err = checkAttribute(name, value)
		}
	})
	if err != nil {
		return err
	}
	for k, vs := range e.Headers {
		for _, v := range vs {
			size += len(k) + len(v) + 4
		}
	}
	if size > MaxHeaders {
		return tooLarge("headers", "attributes and headers of at most "+strconv.Itoa(MaxHeaders)+" bytes", MaxHeaders)
	}
	return nil
}

// each calls f for every attribute that is present, required ones first.
// Extensions come in no fixed order.
func (e *Event) each(f func(name, value string)) {
	f("specversion", SpecVersion)
	f("id", e.ID)
	f("source", e.Source)
	f("type", e.Type)
	for _, a := range [...]struct{ name, value string }{
		{"subject", e.Subject},
		{"time", e.Time},
		{"datacontenttype", e.DataContentType},
		{"dataschema", e.DataSchema},
	} {
		if a.value != "" {
			f(a.name, a.value)
		}
	}
	for name, value := range e.Extensions {
		f(name, value)
	}
}

// set writes one attribute by its CloudEvents name.
func (e *Event) set(name, value string) error {
	switch name {
	case "specversion":
		if value != SpecVersion {
			return rejected("specversion", `"1.0"`)
		}
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
	case "data", "data_base64":
		return rejected(name, "no attribute of this name: it is reserved for the data")
	default:
		if err := checkName(name); err != nil {
			return err
		}
		e.SetExtension(name, value)
	}
	return nil
}

// take sets an attribute that nobody has validated and reports whether it was
// one: a valid name and plain text.
func (e *Event) take(name, value string) bool {
	return plainText(value) && len(value) <= MaxAttribute && e.set(name, value) == nil
}

// SetExtension sets an extension attribute; an empty value removes it.
func (e *Event) SetExtension(name, value string) {
	if value == "" {
		delete(e.Extensions, name)
		return
	}
	if e.Extensions == nil {
		e.Extensions = make(map[string]string, 4)
	}
	e.Extensions[name] = value
}

func checkName(name string) error {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return rejected(name, "an attribute name of lower-case letters and digits")
		}
	}
	if name == "" {
		return rejected("extension", "a name")
	}
	return nil
}

func checkAttribute(name, value string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if len(value) > MaxAttribute {
		return tooLarge(name, "at most "+strconv.Itoa(MaxAttribute)+" bytes", MaxAttribute)
	}
	if !plainText(value) {
		return rejected(name, "UTF-8 text without control characters")
	}
	return checkForm(name, value)
}

// checkForm checks the attributes that are more than text.
func checkForm(name, value string) error {
	switch name {
	case "source":
		if plainPath(value) {
			return nil
		}
		if _, err := url.Parse(value); err != nil {
			return rejected(name, "a URI reference")
		}
	case "time":
		if _, err := time.Parse(time.RFC3339Nano, value); err != nil {
			return rejected(name, "an RFC 3339 time such as 2026-01-02T15:04:05Z")
		}
	case "dataschema":
		if u, err := url.Parse(value); err != nil || !u.IsAbs() {
			return rejected(name, "an absolute URI")
		}
	case "datacontenttype":
		if !mediaType(value) {
			return rejected(name, "a media type such as application/json")
		}
	}
	return nil
}

// plainText reports whether s is a CloudEvents String: valid UTF-8 without
// control characters and noncharacters (CloudEvents 1.0 section 3.1).
func plainText(s string) bool {
	ascii := true
	for i := range len(s) {
		c := s[i]
		if c < 0x20 || c == 0x7f {
			return false
		}
		ascii = ascii && c < 0x80
	}
	if ascii {
		return true
	}
	for _, r := range s {
		if r >= 0x80 && r <= 0x9f || r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe {
			return false
		}
	}
	return utf8.ValidString(s)
}

// plainPath spares the usual source, such as /weft/fra, the parser.
func plainPath(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '/' && c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return strings.HasPrefix(s, "/")
}

func mediaType(s string) bool {
	if s == "application/json" {
		return true
	}
	t, _, err := mime.ParseMediaType(s)
	return err == nil && strings.Contains(t, "/")
}
