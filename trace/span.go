package trace

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"weft.dev/weft/internal/obs"
)

// Status of a span, as in OpenTelemetry.
const (
	StatusUnset = "unset"
	StatusOK    = "ok"
	StatusError = "error"
)

// Attribute keys the store reads.
const (
	attrService     = "service.name"
	attrSite        = string(obs.KeySite)
	attrNode        = string(obs.KeyNode)
	attrCorrelation = string(obs.KeyConversation)
	attrCausation   = string(obs.KeyCausation)
	attrEventID     = string(obs.KeyEventID)
	attrMessageID   = string(obs.KeyMessageID)
)

// Span is one finished span, flat: who did what, when, for which event. Ids are lower-case hex.
type Span struct {
	TraceID       string      `json:"traceId"`
	SpanID        string      `json:"spanId"`
	ParentID      string      `json:"parentId,omitempty"`
	Name          string      `json:"name"`
	Kind          string      `json:"kind"`
	Start         time.Time   `json:"start"`
	End           time.Time   `json:"end"`
	Status        string      `json:"status"`
	StatusMessage string      `json:"statusMessage,omitempty"`
	Service       string      `json:"service"`
	Site          string      `json:"site,omitempty"`
	Node          string      `json:"node,omitempty"`
	Attrs         Attrs       `json:"attrs,omitempty"`
	Links         []Link      `json:"links,omitempty"`
	Events        []SpanEvent `json:"events,omitempty"`
}

// Link points from a span to a span it belongs to without being its child.
type Link struct {
	TraceID string `json:"traceId"`
	SpanID  string `json:"spanId"`
	Attrs   Attrs  `json:"attrs,omitempty"`
}

// SpanEvent is a moment inside a span, for example an exception.
type SpanEvent struct {
	Time  time.Time `json:"time"`
	Name  string    `json:"name"`
	Attrs Attrs     `json:"attrs,omitempty"`
}

// Attr is one attribute; Value is a string, bool, int64, float64, or a slice or map of those.
type Attr struct {
	Key   string
	Value any
}

// Attrs is a list of attributes in the order they were set; its JSON form is an object.
type Attrs []Attr

// Text is the value of key when it is a string, else "".
func (a Attrs) Text(key string) string {
	for _, at := range a {
		if at.Key == key {
			s, _ := at.Value.(string)
			return s
		}
	}
	return ""
}

// MarshalJSON writes the attributes as one object, keys in order.
func (a Attrs) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, at := range a {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(at.Key)
		if err != nil {
			return nil, fmt.Errorf("encode attribute key: %w", err)
		}
		value, err := json.Marshal(at.Value)
		if err != nil { // NaN and infinities have no JSON form
			value, _ = json.Marshal(fmt.Sprint(at.Value))
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads an object; the attributes come out sorted by key.
func (a *Attrs) UnmarshalJSON(data []byte) error {
	var object map[string]any
	if err := json.Unmarshal(data, &object); err != nil {
		return fmt.Errorf("decode attributes: %w", err)
	}
	*a = make(Attrs, 0, len(object))
	for key, value := range object {
		*a = append(*a, Attr{key, value})
	}
	slices.SortFunc(*a, func(x, y Attr) int { return strings.Compare(x.Key, y.Key) })
	return nil
}

// CorrelationID is the flow the span belongs to, "" if unknown.
func (s *Span) CorrelationID() string { return s.Attrs.Text(attrCorrelation) }

// CausationID is the id of the event that caused the one this span is about, "" if none.
func (s *Span) CausationID() string { return s.Attrs.Text(attrCausation) }

// EventID is the id of the event this span is about, "" if none.
func (s *Span) EventID() string {
	if id := s.Attrs.Text(attrEventID); id != "" {
		return id
	}
	return s.Attrs.Text(attrMessageID)
}

// Duration of the span; a clock that ran backwards counts as zero.
func (s *Span) Duration() time.Duration { return max(0, s.End.Sub(s.Start)) }

// Where is "service@site".
func (s *Span) Where() string {
	if s.Site == "" {
		return s.Service
	}
	return s.Service + "@" + s.Site
}

// size is the estimated memory of the span in bytes: strings plus a fixed cost per part.
func (s *Span) size() int {
	const fixed, perAttr, perPart = 480, 48, 96
	n := fixed + len(s.Name) + len(s.StatusMessage) + attrsSize(s.Attrs)
	for _, l := range s.Links {
		n += perPart + len(l.TraceID) + len(l.SpanID) + attrsSize(l.Attrs)
	}
	for _, e := range s.Events {
		n += perPart + len(e.Name) + attrsSize(e.Attrs)
	}
	return n + perAttr*len(s.Attrs)
}

func attrsSize(attrs Attrs) int {
	n := 0
	for _, a := range attrs {
		n += len(a.Key)
		switch v := a.Value.(type) {
		case string:
			n += len(v)
		case []any:
			n += 32 * len(v)
		default:
			n += 8
		}
	}
	return n
}

// Spans turns OTLP into flat spans. Spans without valid ids are left out and counted.
func Spans(batch []*tracepb.ResourceSpans) (spans []*Span, invalid int) {
	for _, rs := range batch {
		resource := rs.GetResource().GetAttributes()
		home := Span{Service: text(resource, attrService), Site: text(resource, attrSite), Node: text(resource, attrNode)}
		for _, scope := range rs.GetScopeSpans() {
			for _, ps := range scope.GetSpans() {
				if len(ps.GetTraceId()) != 16 || len(ps.GetSpanId()) != 8 {
					invalid++
					continue
				}
				spans = append(spans, fromProto(ps, home))
			}
		}
	}
	return spans, invalid
}

func fromProto(p *tracepb.Span, home Span) *Span {
	s := home
	s.TraceID, s.SpanID = hex.EncodeToString(p.GetTraceId()), hex.EncodeToString(p.GetSpanId())
	if len(p.GetParentSpanId()) == 8 {
		s.ParentID = hex.EncodeToString(p.GetParentSpanId())
	}
	s.Name, s.Kind = p.GetName(), kindName(p.GetKind())
	s.Start, s.End = unixNano(p.GetStartTimeUnixNano()), unixNano(p.GetEndTimeUnixNano())
	s.Status, s.StatusMessage = statusName(p.GetStatus().GetCode()), p.GetStatus().GetMessage()
	s.Attrs = attrs(p.GetAttributes())
	if site := s.Attrs.Text(attrSite); site != "" {
		s.Site = site
	}
	if node := s.Attrs.Text(attrNode); node != "" {
		s.Node = node
	}
	if s.Service == "" {
		s.Service = "unknown"
	}
	for _, l := range p.GetLinks() {
		s.Links = append(s.Links, Link{
			TraceID: hex.EncodeToString(l.GetTraceId()), SpanID: hex.EncodeToString(l.GetSpanId()), Attrs: attrs(l.GetAttributes()),
		})
	}
	for _, e := range p.GetEvents() {
		s.Events = append(s.Events, SpanEvent{Time: unixNano(e.GetTimeUnixNano()), Name: e.GetName(), Attrs: attrs(e.GetAttributes())})
	}
	return &s
}

func unixNano(ns uint64) time.Time { return time.Unix(0, int64(ns)).UTC() }

func kindName(k tracepb.Span_SpanKind) string {
	switch k {
	case tracepb.Span_SPAN_KIND_SERVER:
		return "server"
	case tracepb.Span_SPAN_KIND_CLIENT:
		return "client"
	case tracepb.Span_SPAN_KIND_PRODUCER:
		return "producer"
	case tracepb.Span_SPAN_KIND_CONSUMER:
		return "consumer"
	default:
		return "internal"
	}
}

func statusName(c tracepb.Status_StatusCode) string {
	switch c {
	case tracepb.Status_STATUS_CODE_OK:
		return StatusOK
	case tracepb.Status_STATUS_CODE_ERROR:
		return StatusError
	default:
		return StatusUnset
	}
}

func text(kvs []*commonpb.KeyValue, key string) string {
	for _, kv := range kvs {
		if kv.GetKey() == key {
			return kv.GetValue().GetStringValue()
		}
	}
	return ""
}

func attrs(kvs []*commonpb.KeyValue) Attrs {
	if len(kvs) == 0 {
		return nil
	}
	out := make(Attrs, 0, len(kvs))
	for _, kv := range kvs {
		out = append(out, Attr{intern(kv.GetKey()), value(kv.GetValue(), 0)})
	}
	return out
}

// value turns an OTLP value into a Go value; maxNesting keeps a hostile sender from exhausting the stack.
func value(v *commonpb.AnyValue, depth int) any {
	const maxNesting = 8
	if depth > maxNesting {
		return nil
	}
	switch x := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return x.StringValue
	case *commonpb.AnyValue_BoolValue:
		return x.BoolValue
	case *commonpb.AnyValue_IntValue:
		return x.IntValue
	case *commonpb.AnyValue_DoubleValue:
		return x.DoubleValue
	case *commonpb.AnyValue_BytesValue:
		return x.BytesValue
	case *commonpb.AnyValue_ArrayValue:
		list := make([]any, 0, len(x.ArrayValue.GetValues()))
		for _, item := range x.ArrayValue.GetValues() {
			list = append(list, value(item, depth+1))
		}
		return list
	case *commonpb.AnyValue_KvlistValue:
		object := make(map[string]any, len(x.KvlistValue.GetValues()))
		for _, kv := range x.KvlistValue.GetValues() {
			object[kv.GetKey()] = value(kv.GetValue(), depth+1)
		}
		return object
	default:
		return nil
	}
}
