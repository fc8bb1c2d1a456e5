package event

import (
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
	headerContentType   = "Content-Type"
	natsPrefix          = "ce-"
)

// NATS encodes the event in the binary mode of the CloudEvents NATS binding:
// percent-encoded ce- headers and the data as body. The caller owns the map.
func (e Event) NATS() (header map[string][]string, data []byte) {
	h := make(map[string][]string, 10+len(e.Extensions)+len(e.Headers))
	for k, v := range e.Headers {
		h[k] = v
	}
	e.each(func(name, value string) { h[natsHeader(name)] = []string{percentEncode(value)} })
	return h, e.Data
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
// its Nats-Msg-Id or <stream>:<seq>, source /nats/<site> and type its subject.
func FromNATS(m NATSMessage) Stored {
	origin, path, ok := FromMesh(m.Subject)
	if !ok {
		origin, path = m.Site, m.Subject
	}
	s := Stored{Path: path, Origin: origin, Seq: m.Seq, StoredAt: m.StoredAt, Accepted: m.StoredAt}
	s.Data = m.Data
	msgID, contentType := s.readHeaders(m.Header)
	if s.ID == "" && strings.HasPrefix(media(contentType), "application/cloudevents") {
		structured := Event{Headers: s.Headers}
		if structured.UnmarshalJSON(m.Data) == nil {
			s.Event, contentType = structured, ""
		}
	}
	if s.DataContentType == "" {
		s.DataContentType = contentType
	}
	if s.ID == "" {
		s.ID = msgID
	}
	if s.ID == "" {
		s.ID = m.Stream + ":" + strconv.FormatUint(m.Seq, 10)
	}
	s.Fill(Defaults{Subject: path, Source: "/nats/" + origin, Now: m.StoredAt})
	return s
}

// readHeaders sorts the headers into attributes and transport headers.
func (s *Stored) readHeaders(h map[string][]string) (msgID, contentType string) {
	for k, vs := range h {
		if len(vs) == 0 {
			continue
		}
		name, ok := attributeName(k, natsPrefix)
		switch {
		case ok:
			if s.set(name, percentDecode(vs[0])) == nil {
				continue
			}
		case k == HeaderAccepted:
			if ns, err := strconv.ParseInt(vs[0], 10, 64); err == nil {
				s.Accepted = time.Unix(0, ns)
			}
			continue
		case k == HeaderCorrelationID:
			s.setIfAbsent(ExtCorrelationID, vs[0])
			continue
		case strings.EqualFold(k, headerContentType):
			contentType = vs[0]
			continue
		case strings.EqualFold(k, ExtTraceparent), strings.EqualFold(k, ExtTracestate):
			s.setIfAbsent(strings.ToLower(k), vs[0])
			continue
		case strings.HasPrefix(k, "Nats-"):
			if k == headerMsgID {
				msgID = vs[0]
			}
			continue
		}
		if s.Headers == nil {
			s.Headers = make(map[string][]string, 4)
		}
		s.Headers[k] = vs
	}
	return msgID, contentType
}

// setIfAbsent sets an extension that a ce- header did not set. Header order is
// random, so a later ce- header overwrites it.
func (e *Event) setIfAbsent(name, value string) {
	if e.Extensions[name] == "" {
		e.SetExtension(name, value)
	}
}
