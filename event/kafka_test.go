package event_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"weft.dev/weft/event"
)

func sorted(hs []event.KafkaHeader) []event.KafkaHeader {
	hs = slices.Clone(hs)
	slices.SortStableFunc(hs, func(a, b event.KafkaHeader) int { return cmp.Compare(a.Key, b.Key) })
	return hs
}

func header(key, value string) event.KafkaHeader {
	return event.KafkaHeader{Key: key, Value: []byte(value)}
}

// TestKafkaBinding holds the bytes against the CloudEvents Kafka binding 1.0:
// ce_ names, values in UTF-8 as they are, content-type.
func TestKafkaBinding(t *testing.T) {
	hs, key, value := full().Kafka()
	want := []event.KafkaHeader{
		header("ce_causationid", "cart-9"),
		header("ce_correlationid", "flow-7"),
		header("ce_dataschema", "https://schemas.example/order/v1"),
		header("ce_extbin", "AAEC/w=="),
		header("ce_extbool", "true"),
		header("ce_extint", "-2147483648"),
		header("ce_exttime", "2026-01-02T15:04:05Z"),
		header("ce_exturi", "https://a.example/b?c=d%20e"),
		header("ce_exturiref", "../x?y=z"),
		header("ce_id", `ord 42/ü "q" 100%`),
		header("ce_partitionkey", "customer-ä"),
		header("ce_source", "https://shop.example/orders?x=1#f"),
		header("ce_specversion", "1.0"),
		header("ce_subject", "Größe €5 😀"),
		header("ce_time", "2026-01-02T15:04:05.123456Z"),
		header("ce_traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
		header("ce_tracestate", "a=1,b=2"),
		header("ce_type", "orders.created"),
		header("content-type", "application/json; charset=utf-8"),
	}
	if d := gocmp.Diff(want, sorted(hs)); d != "" {
		t.Errorf("headers (-want +got):\n%s", d)
	}
	if string(key) != "customer-ä" || string(value) != string(full().Data) {
		t.Errorf("key %q value %q", key, value)
	}
}

func TestFromKafka(t *testing.T) {
	tests := []struct {
		name string
		give event.KafkaRecord
		want event.Event
	}{
		{
			"a plain record",
			event.KafkaRecord{Key: []byte("k"), Value: []byte("v"), Time: t0},
			event.Event{
				ID: "orders/3/42", Source: "/kafka/main/orders", Data: []byte("v"),
				Headers: map[string][]string{"Weft-Key": {"k"}, "Weft-Time": {"1767366245123"}},
			},
		},
		{
			"a tombstone",
			event.KafkaRecord{Key: []byte{0, 1}},
			event.Event{
				ID: "orders/3/42", Source: "/kafka/main/orders",
				Headers: map[string][]string{"Weft-Key": {"=?b64?AAE="}, "Weft-Tombstone": {"1"}},
			},
		},
		{
			"binary mode, any case of content-type",
			event.KafkaRecord{Value: []byte("{}"), Headers: []event.KafkaHeader{
				header("ce_specversion", "1.0"), header("ce_id", "100% ü"), header("ce_source", "/s"),
				header("ce_type", "t"), header("Content-Type", "application/json"),
			}},
			event.Event{ID: "100% ü", Source: "/s", Type: "t", DataContentType: "application/json", Data: []byte("{}")},
		},
		{
			"structured mode",
			event.KafkaRecord{
				Value:   []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"x"}`),
				Headers: []event.KafkaHeader{header("content-type", "application/cloudevents+json; charset=UTF-8"), header("x", "y")},
			},
			event.Event{ID: "1", Source: "/s", Type: "t", Data: []byte(`"x"`), Headers: map[string][]string{"x": {"y"}}},
		},
		{
			"the record key is the partition key",
			event.KafkaRecord{Key: []byte("p"), Value: []byte{}, Headers: []event.KafkaHeader{header("ce_partitionkey", "p")}},
			event.Event{ID: "orders/3/42", Source: "/kafka/main/orders", Extensions: map[string]string{"partitionkey": "p"}},
		},
		{
			"an empty key is a key",
			event.KafkaRecord{Key: []byte{}, Value: []byte{}},
			event.Event{ID: "orders/3/42", Source: "/kafka/main/orders", Headers: map[string][]string{"Weft-Key": {""}}},
		},
		{
			"trace headers of other producers",
			event.KafkaRecord{Value: []byte{}, Headers: []event.KafkaHeader{header("traceparent", "00-a-b-01")}},
			event.Event{ID: "orders/3/42", Source: "/kafka/main/orders", Extensions: map[string]string{"traceparent": "00-a-b-01"}},
		},
		{
			"what is no attribute stays a header",
			event.KafkaRecord{Value: []byte{}, Headers: []event.KafkaHeader{
				header("ce_id", "\xff"), header("ce_a_b", "1"), header("ce_specversion", "0.3"), header("ce_type", "a\nb"),
			}},
			event.Event{ID: "orders/3/42", Source: "/kafka/main/orders", Headers: map[string][]string{
				"ce_id": {"=?b64?/w=="}, "ce_a_b": {"1"}, "ce_specversion": {"0.3"}, "ce_type": {"=?b64?YQpi"},
			}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.give
			r.Cluster, r.Topic, r.Partition, r.Offset = "main", "orders", 3, 42
			got, err := event.FromKafka(r)
			if err != nil {
				t.Fatal(err)
			}
			diff(t, "event", got, tt.want)
		})
	}
	_, err := event.FromKafka(event.KafkaRecord{Value: []byte("{"), Headers: []event.KafkaHeader{header("content-type", event.MediaJSON)}})
	wantField(t, err, "body")
}

// TestKafkaRecordComesBack: a record of any producer survives Kafka -> mesh ->
// Kafka, header for header and byte for byte.
func TestKafkaRecordComesBack(t *testing.T) {
	give := event.KafkaRecord{
		Cluster: "main", Topic: "orders", Partition: 1, Offset: 2, Time: time.UnixMilli(1767366245123),
		Key: []byte("\x00\xffkey"), Value: []byte("\x00\x00\x00\x00\x07avro"),
		Headers: []event.KafkaHeader{
			header("a", "1"), header("a", "2"), header("bin", "\x00\xff"), header("", "no name"),
			header("Weft-Key", "not ours"), header("Nats-Msg-Id", "not NATS's"), header("ce-id", "another binding's"),
			header("Weft-Header-QQ", "marked name"), header("marked", "=?b64?AAE="), header("sp ace:ü", " v "), header("empty", ""),
		},
	}
	e, err := event.FromKafka(give)
	if err != nil {
		t.Fatal(err)
	}
	e.Type = "orders"
	s := event.FromNATS(message(e))
	hs, key, value := s.Kafka()
	var foreign []event.KafkaHeader
	for _, h := range hs {
		if !strings.HasPrefix(h.Key, "ce_") {
			foreign = append(foreign, h)
		}
	}
	if d := gocmp.Diff(sorted(give.Headers), sorted(foreign)); d != "" {
		t.Errorf("headers (-want +got):\n%s", d)
	}
	if !bytes.Equal(key, give.Key) || !bytes.Equal(value, give.Value) {
		t.Errorf("key %q value %q", key, value)
	}
	if s.Headers[event.HeaderTime][0] != "1767366245123" {
		t.Errorf("time = %v", s.Headers[event.HeaderTime])
	}
}

func TestTombstoneAndEmptyValueDiffer(t *testing.T) {
	for _, value := range [][]byte{nil, {}} {
		e, err := event.FromKafka(event.KafkaRecord{Topic: "t", Value: value})
		if err != nil {
			t.Fatal(err)
		}
		e.Type = "t"
		_, _, got := event.FromNATS(message(e)).Kafka()
		if (got == nil) != (value == nil) {
			t.Errorf("value %#v comes back as %#v", value, got)
		}
	}
}

func FuzzKafkaRoundTrip(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, []byte("data"), "h", []byte("v"))
	}
	f.Add("", []byte(nil), "Weft-Header-", []byte("=?b64?"))
	f.Fuzz(func(t *testing.T, attrs string, data []byte, name string, value []byte) {
		e := parse(attrs, data)
		if e.Validate() != nil {
			return
		}
		// structured mode is another path: FuzzUnmarshalJSON
		if strings.HasPrefix(strings.ToLower(strings.TrimSpace(e.DataContentType)), event.MediaJSON) {
			return
		}
		hs, key, val := e.Kafka()
		back, err := event.FromKafka(event.KafkaRecord{Topic: "t", Key: key, Value: val, Headers: hs})
		if err != nil {
			t.Fatal(err)
		}
		diff(t, "read back", back, e)

		hs = append(hs, event.KafkaHeader{Key: name, Value: value})
		back, err = event.FromKafka(event.KafkaRecord{Topic: "t", Key: key, Value: val, Headers: hs})
		if err != nil || back.Validate() != nil && len(name)+len(value) < event.MaxAttribute {
			return // the header made it structured, or set an attribute to a wrong form
		}
		if back.Time == "" {
			back.Time = e.Time
		}
		again := event.FromNATS(message(back))
		hs2, key2, val2 := again.Kafka()
		if !bytes.Equal(key2, key) || !bytes.Equal(val2, val) {
			t.Errorf("key %q value %q come back as %q %q", key, val, key2, val2)
		}
		l := strings.ToLower(name)
		if strings.HasPrefix(l, "ce_") || l == "content-type" || l == "traceparent" || l == "tracestate" {
			return
		}
		if !slices.ContainsFunc(hs2, func(h event.KafkaHeader) bool { return h.Key == name && bytes.Equal(h.Value, value) }) {
			t.Errorf("header %q = %q is lost: %v", name, value, hs2)
		}
	})
}

func FuzzFromKafka(f *testing.F) {
	f.Add("ce_id: x\nContent-Type: application/cloudevents+json", []byte("k"), []byte("{}"))
	f.Add("ce_A: \xff\nce_time: x\ntraceparent: \x00", []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, headers string, key, value []byte) {
		var hs []event.KafkaHeader
		for line := range strings.Lines(headers) {
			name, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			hs = append(hs, header(name, v))
		}
		e, err := event.FromKafka(event.KafkaRecord{Cluster: "c", Topic: "t", Key: key, Value: value, Headers: hs})
		if err != nil {
			if _, ok := asField(err); !ok {
				t.Fatalf("%v is no field error", err)
			}
			return
		}
		if b := e.AppendJSON(nil); !json.Valid(b) {
			t.Fatalf("no JSON: %s", b)
		}
		e.Fill(event.Defaults{Subject: "t", Source: "/x", Now: t0})
		if e.Validate() != nil {
			return
		}
		diff(t, "through NATS", event.FromNATS(message(e)).Event, e)
	})
}
