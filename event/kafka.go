package event

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// Transport headers that keep what a Kafka record has and an event has not.
const (
	HeaderKey       = "Weft-Key"       // record key
	HeaderTime      = "Weft-Time"      // record timestamp, Unix milliseconds
	HeaderTombstone = "Weft-Tombstone" // "1": the record's value was null
)

const (
	kafkaPrefix      = "ce_"
	kafkaContentType = "content-type"
	binaryMarker     = "=?b64?" // a header value that NATS cannot carry as text
)

// KafkaHeader is one record header; names may repeat.
type KafkaHeader struct {
	Key   string
	Value []byte
}

// KafkaRecord is a record as a consumer reads it.
type KafkaRecord struct {
	Cluster   string // name of the Kafka cluster in the configuration
	Topic     string
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte // nil is a tombstone
	Headers   []KafkaHeader
	Time      time.Time
}

// Kafka encodes the event in the binary mode of the CloudEvents Kafka binding:
// ce_ headers in UTF-8, content-type, the data as value. Key is the Weft-Key
// header, else the partitionkey, else nil. A tombstone has a nil value.
func (e Event) Kafka() (headers []KafkaHeader, key, value []byte) {
	headers = make([]KafkaHeader, 0, 8+len(e.Extensions)+len(e.Headers))
	e.each(func(name, v string) {
		if name == "datacontenttype" {
			headers = append(headers, KafkaHeader{kafkaContentType, []byte(v)})
			return
		}
		headers = append(headers, KafkaHeader{kafkaPrefix + name, []byte(v)})
	})
	value = e.Data
	if value == nil {
		value = []byte{}
	}
	if pk := e.Extensions[ExtPartitionKey]; pk != "" {
		key = []byte(pk)
	}
	for name, vs := range e.Headers {
		for _, v := range vs {
			switch name {
			case HeaderKey:
				key = textBytes(v)
			case HeaderTombstone:
				value = nil
			case HeaderTime:
			default:
				if e.overrides(name, kafkaPrefix) {
					continue
				}
				headers = append(headers, KafkaHeader{headerName(name), textBytes(v)})
			}
		}
	}
	return headers, key, value
}

// FromKafka decodes a record. A record that is no CloudEvent becomes an event
// with id <topic>/<partition>/<offset> and source /kafka/<cluster>/<topic>; its
// type is left to the caller. A structured CloudEvent that does not parse is an
// error; anything else always succeeds: a ce_ header that is no attribute (not
// UTF-8, a name or specversion that CloudEvents 1.0 has not) is kept as a
// transport header.
func FromKafka(r KafkaRecord) (Event, error) {
	e := Event{Data: r.Value}
	contentType := ""
	var attrs, trace []KafkaHeader
	for _, h := range r.Headers {
		if strings.EqualFold(h.Key, kafkaContentType) {
			contentType = string(h.Value)
		} else if _, ok := attributeName(h.Key, kafkaPrefix); ok {
			attrs = append(attrs, h)
		} else if traceName(h.Key) {
			trace = append(trace, h)
		} else {
			e.addHeader(textName(h.Key), bytesText(h.Value))
		}
	}
	if strings.HasPrefix(media(contentType), MediaJSON) {
		if err := e.UnmarshalJSON(r.Value); err != nil {
			return Event{}, err
		}
	} else if plainText(contentType) {
		e.DataContentType = contentType
	}
	for _, h := range attrs {
		name, _ := attributeName(h.Key, kafkaPrefix)
		if !e.take(name, string(h.Value)) {
			e.addHeader(textName(h.Key), bytesText(h.Value))
		}
	}
	for _, h := range trace {
		if name := lower(h.Key); e.Extensions[name] != "" || !e.take(name, string(h.Value)) {
			e.addHeader(textName(h.Key), bytesText(h.Value))
		}
	}
	e.keepRecord(r)
	return e, nil
}

// keepRecord keeps the parts of the record that the envelope has no place for.
func (e *Event) keepRecord(r KafkaRecord) {
	if pk := e.Extensions[ExtPartitionKey]; r.Key != nil && (pk == "" || string(r.Key) != pk) {
		e.addHeader(HeaderKey, bytesText(r.Key))
	}
	if r.Value == nil {
		e.addHeader(HeaderTombstone, "1")
	}
	if !r.Time.IsZero() {
		e.addHeader(HeaderTime, strconv.FormatInt(r.Time.UnixMilli(), 10))
	}
	if e.ID == "" {
		e.ID = r.Topic + "/" + strconv.Itoa(int(r.Partition)) + "/" + strconv.FormatInt(r.Offset, 10)
	}
	if e.Source == "" {
		e.Source = "/kafka/" + r.Cluster + "/" + r.Topic
	}
}

func (e *Event) addHeader(name, value string) {
	if e.Headers == nil {
		e.Headers = make(map[string][]string, 4)
	}
	e.Headers[name] = append(e.Headers[name], value)
}

// bytesText is a NATS header value for any bytes: itself when it is plain text
// that NATS keeps unchanged, else base64 behind a marker.
func bytesText(b []byte) string {
	s := string(b)
	if plainText(s) && strings.TrimSpace(s) == s && !strings.HasPrefix(s, binaryMarker) {
		return s
	}
	return binaryMarker + base64.StdEncoding.EncodeToString(b)
}

func textBytes(s string) []byte {
	if enc, ok := strings.CutPrefix(s, binaryMarker); ok {
		if b, err := base64.StdEncoding.DecodeString(enc); err == nil {
			return b
		}
	}
	return []byte(s)
}

// textName is a NATS header name for any Kafka header name: itself when NATS
// can carry it and nothing on NATS gives it a meaning of its own, else marked
// base64url.
func textName(s string) string {
	plain := s != "" && !strings.HasPrefix(s, nameMarker) && !reservedName(s)
	for i := range len(s) {
		c := s[i]
		plain = plain && c > ' ' && c < 0x7f && c != ':'
	}
	if plain {
		return s
	}
	return nameMarker + base64.RawURLEncoding.EncodeToString([]byte(s))
}

const nameMarker = "Weft-Header-"

// reservedName: a name that FromNATS would read as something else.
func reservedName(s string) bool {
	if _, ok := attributeName(s, natsPrefix); ok {
		return true
	}
	l := lower(s)
	return strings.HasPrefix(l, "nats-") || strings.HasPrefix(l, "weft-") || l == "content-type" || traceName(s)
}

// traceName: the header that other producers carry the trace context in.
func traceName(s string) bool { return foldsTo(s, ExtTraceparent) || foldsTo(s, ExtTracestate) }

func headerName(s string) string {
	if enc, ok := strings.CutPrefix(s, nameMarker); ok {
		if b, err := base64.RawURLEncoding.DecodeString(enc); err == nil {
			return string(b)
		}
	}
	return s
}
