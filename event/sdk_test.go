package event_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	natsce "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	sdk "github.com/cloudevents/sdk-go/v2/event"
	sdkhttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
)

// These tests hold Weft's codecs against the official Go SDK in both
// directions. Where the SDK (v2.16.2) departs from the specification:
//
//   - HTTP and JetStream, binary mode: it neither encodes nor decodes the
//     percent-encoding of header values (HTTP binding 3.1.3.2). It writes raw
//     UTF-8, which Weft reads; a percent sign followed by two hex digits that
//     it sends is read as an escape, as the specification wants. What Weft
//     encodes, the SDK's reader hands on still encoded.
//   - JetStream, binary mode: Binary, URI and URI-reference extensions are
//     written in Go's print form ("[0 1 255]", "{{https   a.example …}}") instead
//     of the canonical string. Weft carries the text as it is.
//   - JetStream, structured mode: no Content-Type is set. Weft recognises the
//     JSON by its required attributes.

// sdkEvent has an attribute of every CloudEvents type. The text says whether
// values beyond visible ASCII and percent signs are wanted.
func sdkEvent(text string) sdk.Event {
	e := sdk.New("1.0")
	e.SetID("id-" + text)
	e.SetSource("https://shop.example/orders?x=1#f")
	e.SetType("orders.created")
	e.SetSubject("subject " + text)
	e.SetTime(t0)
	e.SetDataSchema("https://schemas.example/order/v1")
	e.SetExtension("extstring", text)
	e.SetExtension("extint", int32(-2147483648))
	e.SetExtension("extbool", true)
	e.SetExtension("extbin", []byte{0, 1, 255})
	e.SetExtension("exturi", types.URI{URL: mustURL("https://a.example/b?c=d")})
	e.SetExtension("exturiref", types.URIRef{URL: mustURL("../x?y=z")})
	e.SetExtension("exttime", types.Timestamp{Time: t0})
	return e
}

// weftEvent is the same event as Weft holds it.
func weftEvent(text string) event.Event {
	return event.Event{
		ID: "id-" + text, Source: "https://shop.example/orders?x=1#f", Type: "orders.created",
		Subject: "subject " + text, Time: "2026-01-02T15:04:05.123456Z", DataSchema: "https://schemas.example/order/v1",
		Extensions: map[string]string{
			"extstring": text, "extint": "-2147483648", "extbool": "true", "extbin": "AAH/",
			"exturi": "https://a.example/b?c=d", "exturiref": "../x?y=z", "exttime": "2026-01-02T15:04:05.123456Z",
		},
	}
}

func mustURL(s string) url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return *u
}

// bodies are data of every kind.
var bodies = []struct {
	name, contentType string
	data              []byte
}{
	{"json", "application/json", []byte(`{"a":[1,2.50,null],"ü":"<😀>"}`)},
	{"json string", "application/json", []byte(`"just text"`)},
	{"text", "text/plain; charset=utf-8", []byte("grün, \"quoted\"\nsecond line")},
	{"xml", "application/xml", []byte("<a>ü</a>")},
	{"binary", "application/octet-stream", []byte{0, 1, 2, 0xff, 0xfe, '\n', '"'}},
	{"none", "", nil},
}

func withData(t *testing.T, e sdk.Event, contentType string, data []byte) sdk.Event {
	t.Helper()
	if data != nil {
		if err := e.SetData(contentType, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Validate(); err != nil {
		t.Fatalf("the SDK refuses its own event: %v", err)
	}
	return e
}

// same compares what the SDK read with what Weft holds.
func same(t *testing.T, got *sdk.Event, want event.Event) {
	t.Helper()
	if err := got.Validate(); err != nil {
		t.Errorf("the SDK finds it invalid: %v", err)
	}
	have := event.Event{
		ID: got.ID(), Source: got.Source(), Type: got.Type(), Subject: got.Subject(),
		DataContentType: got.DataContentType(), DataSchema: got.DataSchema(), Data: got.Data(),
	}
	if !got.Time().IsZero() {
		have.Time = got.Time().Format(time.RFC3339Nano)
	}
	for name, v := range got.Extensions() {
		s, err := types.Format(v)
		if err != nil {
			t.Fatal(err)
		}
		have.SetExtension(name, s)
	}
	diff(t, "read by the SDK", have, want)
}

const unicode = "Größe €5 😀 \"q\" \\"

func TestSDKWritesHTTPBinary(t *testing.T) {
	for _, text := range []string{"plain", unicode, "100% sure"} {
		for _, b := range bodies {
			t.Run(text+" "+b.name, func(t *testing.T) {
				give := withData(t, sdkEvent(text), b.contentType, b.data)
				r := httptest.NewRequest(http.MethodPost, "/", nil)
				if err := sdkhttp.WriteRequest(t.Context(), binding.ToMessage(&give), r); err != nil {
					t.Fatal(err)
				}
				var body bytes.Buffer
				if r.Body != nil {
					_, _ = body.ReadFrom(r.Body)
				}
				events, mode, err := event.FromHTTP(r.Header, body.Bytes())
				if err != nil || mode != event.Binary {
					t.Fatalf("mode %v, %v", mode, err)
				}
				want := weftEvent(text)
				want.DataContentType, want.Data = b.contentType, b.data
				diff(t, "read by Weft", events[0], want)
				if err := events[0].Validate(); err != nil {
					t.Errorf("Weft finds it invalid: %v", err)
				}
			})
		}
	}
}

func TestSDKReadsHTTPBinary(t *testing.T) {
	for _, b := range bodies {
		t.Run(b.name, func(t *testing.T) {
			give := weftEvent("plain")
			give.Subject = "no-space" // a space is encoded, and the SDK does not decode
			give.DataContentType, give.Data = b.contentType, b.data
			h, body := give.HTTP()
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
			r.Header = h
			got, err := sdkhttp.NewEventFromHTTPRequest(r)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, give)
		})
	}
}

// TestSDKLeavesPercentEncoding documents the first deviation: the value is what
// Weft sent, one decoding short.
func TestSDKLeavesPercentEncoding(t *testing.T) {
	give := weftEvent(unicode)
	h, body := give.HTTP()
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	r.Header = h
	got, err := sdkhttp.NewEventFromHTTPRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	if got.Subject() != event.PercentEncode(give.Subject) {
		t.Errorf("the SDK reads %q: it decodes now, so it can be held to the whole event", got.Subject())
	}
	if dec := event.PercentDecode(got.Subject()); dec != give.Subject {
		t.Errorf("decoded = %q, want %q", dec, give.Subject)
	}
}

func TestSDKAndStructuredJSON(t *testing.T) {
	for _, text := range []string{"plain", unicode, "100% %41"} {
		for _, b := range bodies {
			t.Run(text+" "+b.name, func(t *testing.T) {
				ours := weftEvent(text)
				ours.DataContentType, ours.Data = b.contentType, b.data
				theirs := withData(t, sdkEvent(text), b.contentType, b.data)

				r, err := sdkhttp.NewHTTPRequestFromEvent(binding.WithForceStructured(t.Context()), "http://x/", theirs)
				if err != nil {
					t.Fatal(err)
				}
				var body bytes.Buffer
				_, _ = body.ReadFrom(r.Body)
				events, mode, err := event.FromHTTP(r.Header, body.Bytes())
				if err != nil || mode != event.Structured {
					t.Fatalf("mode %v, %v: %s", mode, err, body.Bytes())
				}
				diff(t, "read by Weft", events[0], ours)

				r = httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(ours.AppendJSON(nil)))
				r.Header.Set("Content-Type", event.MediaJSON)
				got, err := sdkhttp.NewEventFromHTTPRequest(r)
				if err != nil {
					t.Fatal(err)
				}
				same(t, got, ours)
			})
		}
	}
}

func TestSDKAndBatch(t *testing.T) {
	var ours []event.Event
	var theirs []sdk.Event
	for _, b := range bodies {
		e := weftEvent(unicode)
		e.DataContentType, e.Data = b.contentType, b.data
		ours = append(ours, e)
		theirs = append(theirs, withData(t, sdkEvent(unicode), b.contentType, b.data))
	}
	r, err := sdkhttp.NewHTTPRequestFromEvents(t.Context(), "http://x/", theirs)
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	_, _ = body.ReadFrom(r.Body)
	events, mode, err := event.FromHTTP(r.Header, body.Bytes())
	if err != nil || mode != event.Batched || len(events) != len(ours) {
		t.Fatalf("%d events, mode %v, %v", len(events), mode, err)
	}
	for i := range ours {
		diff(t, "read by Weft", events[i], ours[i])
	}
	r = httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(event.MarshalBatch(ours)))
	r.Header.Set("Content-Type", event.MediaBatch)
	got, err := sdkhttp.NewEventsFromHTTPRequest(r)
	if err != nil || len(got) != len(ours) {
		t.Fatalf("the SDK reads %d events, %v", len(got), err)
	}
	for i := range ours {
		same(t, &got[i], ours[i])
	}
}

func TestSDKReadsNumbersAndBooleans(t *testing.T) {
	const give = `{"specversion":"1.0","id":"1","source":"/s","type":"t","n":42,"b":true}`
	var theirs sdk.Event
	var ours event.Event
	if err := json.Unmarshal([]byte(give), &theirs); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(give), &ours); err != nil {
		t.Fatal(err)
	}
	same(t, &theirs, ours)
}

func TestSDKAndJetStreamBinary(t *testing.T) {
	for _, b := range bodies {
		t.Run(b.name, func(t *testing.T) {
			ours := weftEvent("plain")
			ours.Subject = "no-space"
			ours.DataContentType, ours.Data = b.contentType, b.data
			theirs := withData(t, sdkEvent("plain"), b.contentType, b.data)
			theirs.SetSubject("no-space")

			var body bytes.Buffer
			h, err := natsce.WriteMsg(t.Context(), binding.ToMessage(&theirs), &body)
			if err != nil {
				t.Fatal(err)
			}
			got := event.FromNATS(event.NATSMessage{Subject: "ev.fra.a", Header: h, Data: body.Bytes(), StoredAt: t0})
			want := ours
			want.Extensions = map[string]string{}
			for name, v := range ours.Extensions {
				want.Extensions[name] = v
			}
			want.Extensions["extbin"] = "[0 1 255]" // the second deviation
			want.Extensions["exturi"] = "{{https   a.example /b  c=d   false false}}"
			want.Extensions["exturiref"] = "{{    ../x  y=z   false false}}"
			diff(t, "read by Weft", got.Event, want)

			header, data := ours.NATS()
			if b.contentType != "" {
				header["ce-datacontenttype"] = []string{b.contentType} // the SDK does not decode its space
			}
			read, err := binding.ToEvent(t.Context(), natsce.NewMessage(&nats.Msg{Header: header, Data: data}))
			if err != nil {
				t.Fatal(err)
			}
			same(t, read, ours)
		})
	}
}

func TestSDKWritesJetStreamStructured(t *testing.T) {
	theirs := withData(t, sdkEvent(unicode), "application/json", []byte(`{"a":1}`))
	var body bytes.Buffer
	h, err := natsce.WriteMsg(binding.WithForceStructured(t.Context()), binding.ToMessage(&theirs), &body)
	if err != nil || len(h) != 0 {
		t.Fatalf("headers %v, %v: the SDK names the format now", h, err)
	}
	got := event.FromNATS(event.NATSMessage{Subject: "orders.created", Data: body.Bytes(), Site: "fra", StoredAt: t0})
	want := weftEvent(unicode)
	want.DataContentType, want.Data = "application/json", []byte(`{"a":1}`)
	diff(t, "read by Weft", got.Event, want)

	// and the other way: the SDK takes any message without ce-specversion so
	read, err := binding.ToEvent(t.Context(), natsce.NewMessage(&nats.Msg{Data: want.AppendJSON(nil)}))
	if err != nil {
		t.Fatal(err)
	}
	same(t, read, want)
}

// TestSDKReadsKafka uses what the SDK's Kafka binding (kafka_sarama v2.16.2)
// wrote for sdkEvent: its reader and writer copy header bytes as they are, so
// the same bytes serve both directions.
func TestSDKReadsKafka(t *testing.T) {
	var record []event.KafkaHeader
	for line := range strings.Lines(saramaRecord) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		record = append(record, header(name, value))
	}
	want := weftEvent(unicode)
	want.DataContentType = "text/plain; charset=utf-8"
	want.Data = []byte("grün")
	want.SetExtension("partitionkey", "customer-ä")
	got, err := event.FromKafka(event.KafkaRecord{Key: []byte("customer-ä"), Value: []byte("grün"), Headers: record})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "read by Weft", got, want)
	hs, key, value := want.Kafka()
	if d := sortedText(hs); d != sortedText(record) {
		t.Errorf("headers = %s\nwant the SDK's %s", d, sortedText(record))
	}
	if string(key) != "customer-ä" || string(value) != "grün" {
		t.Errorf("key %q value %q", key, value)
	}
}

func sortedText(hs []event.KafkaHeader) string {
	var b strings.Builder
	for _, h := range sorted(hs) {
		b.WriteString(h.Key + ": " + string(h.Value) + "\n")
	}
	return b.String()
}

const saramaRecord = `ce_id: id-Größe €5 😀 "q" \
ce_source: https://shop.example/orders?x=1#f
ce_specversion: 1.0
ce_type: orders.created
content-type: text/plain; charset=utf-8
ce_dataschema: https://schemas.example/order/v1
ce_subject: subject Größe €5 😀 "q" \
ce_time: 2026-01-02T15:04:05.123456Z
ce_exturi: https://a.example/b?c=d
ce_exturiref: ../x?y=z
ce_exttime: 2026-01-02T15:04:05.123456Z
ce_partitionkey: customer-ä
ce_extstring: Größe €5 😀 "q" \
ce_extint: -2147483648
ce_extbool: true
ce_extbin: AAH/
`
