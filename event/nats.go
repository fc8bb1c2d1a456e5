package event

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Header names on NATS.
const (
	// HeaderAccepted holds the Unix nanoseconds at which the origin site accepted the event.
	HeaderAccepted = "Weft-Accepted"
	// HeaderCorrelationID carries the correlation id of a message that is no CloudEvent.
	HeaderCorrelationID = "Weft-Correlation-Id"
	headerMsgID         = "Nats-Msg-Id"
	// HeaderPosition names an event without id by its place in the stream that had
	// it first. It goes with the event to other sites.
	HeaderPosition = "Weft-Position"
	// HeaderOrigin is the event's place in the stream of its origin: the sequence
	// there and the Unix nanoseconds when it was stored. Other sites add it.
	HeaderOrigin       = "Weft-Origin"
	headerStreamSource = "Nats-Stream-Source"
	commandPrefix      = "nats-"
	natsPrefix         = "ce-"
)

// NATS encodes the event in the binary mode of the CloudEvents NATS binding:
// percent-encoded ce- headers and the data as body. The caller owns the map and
// may add to it; the values of different headers share one array, each at full
// capacity. A transport header with the name of an attribute gives way to it, and
// one that begins with Nats- is left out: those are commands to the server, such
// as to empty the stream, and an event may come from anywhere.
func (e Event) NATS() (header map[string][]string, data []byte) {
	n := 8 + len(e.Extensions)
	h := make(map[string][]string, n+len(e.Headers)+spareHeaders)
	for k, v := range e.Headers {
		if !e.overrides(k, natsPrefix) && !command(k) {
			h[k] = v
		}
	}
	values := make([]string, 0, n)
	e.each(func(name, value string) {
		values = append(values, percentEncode(value))
		i := len(values)
		h[natsHeader(name)] = values[i-1 : i : i]
	})
	return h, e.Data
}

// command: the server acts on a header of this name.
func command(name string) bool {
	return len(name) >= len(commandPrefix) && foldsTo(name[:len(commandPrefix)], commandPrefix)
}

// spareHeaders leaves room in the map for what a publisher adds: Nats-Msg-Id,
// Weft-Accepted and the three batch headers.
const spareHeaders = 5

// overrides reports whether a transport header has the name of an attribute
// that the event carries, in any case.
func (e *Event) overrides(header, prefix string) bool {
	name, ok := attributeName(header, prefix)
	return ok && (name == "specversion" || e.attribute(name) != "")
}

// attribute returns the value of an attribute other than specversion.
func (e *Event) attribute(name string) string {
	switch name {
	case "id":
		return e.ID
	case "source":
		return e.Source
	case "type":
		return e.Type
	case "subject":
		return e.Subject
	case "time":
		return e.Time
	case "datacontenttype":
		return e.DataContentType
	case "dataschema":
		return e.DataSchema
	}
	return e.Extensions[name]
}

// natsHeader avoids building the names every event carries.
func natsHeader(name string) string {
	switch name {
	case "specversion":
		return "ce-specversion"
	case "id":
		return "ce-id"
	case "source":
		return "ce-source"
	case "type":
		return "ce-type"
	case "time":
		return "ce-time"
	case "datacontenttype":
		return "ce-datacontenttype"
	case ExtCorrelationID:
		return "ce-correlationid"
	case ExtTraceparent:
		return "ce-traceparent"
	}
	return natsPrefix + name
}

// NATSMessage is a message as read from a site's stream. Header names are
// matched without regard to case, as NATS keeps them as sent.
type NATSMessage struct {
	Subject  string
	Header   map[string][]string
	Data     []byte
	Site     string // the reading site
	Stream   string
	Seq      uint64
	StoredAt time.Time
}

// FromNATS decodes a stored message. It never fails: a message that is no valid
// CloudEvent (a native NATS client published it) becomes an event whose id is
// its Nats-Msg-Id or <stream>:<seq> at the site that first stored it, source
// /nats/<site> and type its subject. A ce- header that is no attribute is kept
// as a transport header.
func FromNATS(m NATSMessage) Stored {
	origin, path, ok := FromMesh(m.Subject)
	if !ok {
		origin, path = m.Site, m.Subject
	}
	s := Stored{Path: path, Origin: origin, Seq: m.Seq, StoredAt: m.StoredAt, Accepted: m.StoredAt}
	s.Data = m.Data
	in := s.readHeaders(m.Header)
	if !in.checked {
		s.dropInvalid(m.Header)
		in.contentType = s.readStructured(in.contentType)
	}
	if s.DataContentType == "" && checkAttribute("datacontenttype", in.contentType) == nil {
		s.DataContentType = in.contentType
	}
	if s.ID == "" && checkAttribute("id", in.msgID) == nil {
		s.ID = in.msgID
	}
	if s.ID == "" {
		s.ID = in.position
	}
	if s.ID == "" {
		s.ID = positionID(m.Stream, m.Seq, in.sourced)
	}
	s.Fill(Defaults{Subject: path, Source: "/nats/" + origin, Now: m.StoredAt})
	return s
}

// PositionID is the id of a message that has none: <stream>:<seq> in the stream
// that it was drawn from, or else in the one it is read from.
func PositionID(header map[string][]string, stream string, seq uint64) string {
	var sourced string
	if vs := header[headerStreamSource]; len(vs) > 0 {
		sourced = vs[0]
	}
	return positionID(stream, seq, sourced)
}

func positionID(stream string, seq uint64, sourced string) string {
	f := strings.Fields(sourced)
	if len(f) > 1 {
		stream, _, _ := strings.Cut(f[0], ":")
		if _, err := strconv.ParseUint(f[1], 10, 64); err == nil && token(stream) {
			return stream + ":" + f[1]
		}
	}
	return stream + ":" + strconv.FormatUint(seq, 10)
}

// natsInfo is what headers say beside the attributes.
type natsInfo struct {
	msgID       string
	contentType string
	sourced     string // <stream>[:<hash>] <seq> ...: position in the stream it was drawn from
	position    string // its name, if it has no id
	checked     bool   // Weft accepted it, so its attributes are valid
}

// readHeaders sorts the headers into attributes and transport headers. A name
// in its usual case comes before others that fold to it.
func (s *Stored) readHeaders(h map[string][]string) natsInfo {
	var in natsInfo
	var odd []string
	for k, vs := range h {
		if len(vs) == 0 {
			continue
		}
		name, ok := attributeName(k, natsPrefix)
		switch {
		case ok && k[len(natsPrefix):] == name && strings.HasPrefix(k, natsPrefix):
			if !s.take(name, percentDecode(vs[0])) {
				s.setHeader(k, vs)
			}
		case ok:
			odd = append(odd, k)
		case k == HeaderAccepted:
			if ns, err := strconv.ParseInt(vs[0], 10, 64); err == nil {
				s.Accepted, in.checked = time.Unix(0, ns), true
			}
		case k == HeaderCorrelationID:
			s.setIfAbsent(ExtCorrelationID, vs[0])
		case foldsTo(k, "content-type"):
			in.contentType = vs[0]
		case traceName(k):
			s.setIfAbsent(lower(k), vs[0])
		case k == headerMsgID:
			in.msgID = vs[0]
		case k == headerStreamSource:
			in.sourced = vs[0]
		case k == HeaderPosition:
			if checkAttribute("id", vs[0]) == nil {
				in.position = vs[0]
			}
		case k == HeaderOrigin, strings.HasPrefix(k, "Nats-"):
		default:
			s.setHeader(k, vs)
		}
	}
	slices.Sort(odd)
	for _, k := range odd {
		name, _ := attributeName(k, natsPrefix)
		if s.attribute(name) != "" || !s.take(name, percentDecode(h[k][0])) {
			s.setHeader(k, h[k])
		}
	}
	return in
}

func (s *Stored) setHeader(name string, values []string) {
	if s.Headers == nil {
		s.Headers = make(map[string][]string, 4)
	}
	s.Headers[name] = values
}

// dropInvalid clears the attributes of a native message whose form is wrong, so
// that the event is a CloudEvent everywhere. Their headers stay.
func (s *Stored) dropInvalid(h map[string][]string) {
	for _, name := range [...]string{"source", "time", "datacontenttype", "dataschema"} {
		v := s.attribute(name)
		if v == "" || checkForm(name, v) == nil {
			continue
		}
		_ = s.set(name, "") // a known name
		for k, vs := range h {
			if n, ok := attributeName(k, natsPrefix); ok && n == name {
				s.setHeader(k, vs)
			}
		}
	}
}

// readStructured replaces the event by the one its data holds in structured
// mode, if so, and returns the content type that is left. The JetStream
// binding of sdk-go sets no Content-Type, so an object with a specversion and
// the required attributes is one as well.
func (s *Stored) readStructured(contentType string) string {
	declared := strings.HasPrefix(media(contentType), "application/cloudevents")
	bare := contentType == "" && bytes.HasPrefix(s.Data, []byte("{")) && bytes.Contains(s.Data, []byte(`"specversion"`))
	if s.ID != "" || !declared && !bare {
		return contentType
	}
	e := Event{Headers: s.Headers}
	if e.UnmarshalJSON(s.Data) != nil || e.Validate() != nil {
		return contentType
	}
	for name, value := range s.Extensions {
		e.setIfAbsent(name, value)
	}
	s.Event = e
	return ""
}

// setIfAbsent sets an extension that a ce- header did not set. Header order is
// random, so a later ce- header overwrites it.
func (e *Event) setIfAbsent(name, value string) {
	if e.Extensions[name] == "" && plainText(value) && len(value) <= MaxAttribute {
		e.SetExtension(name, value)
	}
}
