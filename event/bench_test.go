package event_test

import (
	"testing"

	"weft.dev/weft/event"
)

// usual is what most events look like: four attributes, correlation, trace.
func usual() event.Event {
	return event.Event{
		ID: "019b8f2e-6c4f-7a10-b3de-0c2f5a6b7c8d", Source: "/weft/fra", Type: "orders.created",
		Time: "2026-01-02T15:04:05.123456Z", DataContentType: "application/json",
		Extensions: map[string]string{
			"correlationid": "4bf92f3577b34da6a3ce929d0e0e4736",
			"traceparent":   "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		},
		Data: []byte(`{"id":"ord-42","customer":"c-9","total":12.50,"items":[{"sku":"a","n":1},{"sku":"b","n":2}]}`),
	}
}

// TestAllocations holds the hot paths to what they cost now. A map of up to 8
// headers is one allocation, a larger one is four to six.
func TestAllocations(t *testing.T) {
	e := usual()
	m := message(e)
	m.Header[event.HeaderAccepted] = []string{"1767366245000000001"}
	h, body := e.HTTP()
	buf := make([]byte, 0, 1<<10)
	tests := []struct {
		name string
		max  float64
		f    func()
	}{
		{"Validate", 0, func() { _ = e.Validate() }},
		{"AppendJSON", 1, func() { buf = e.AppendJSON(buf[:0]) }},
		{"NATS", 8, func() { _, _ = e.NATS() }},
		{"FromNATS", 3, func() { _ = event.FromNATS(m) }},
		{"FromHTTP", 3, func() { _, _, _ = event.FromHTTP(h, body) }},
		{"Key", 1, func() { _ = e.Key() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if n := testing.AllocsPerRun(100, tt.f); n > tt.max {
				t.Errorf("%v allocations, want at most %v", n, tt.max)
			}
		})
	}
}

func BenchmarkValidate(b *testing.B) {
	e := usual()
	b.ReportAllocs()
	for b.Loop() {
		_ = e.Validate()
	}
}

func BenchmarkNATS(b *testing.B) {
	e := usual()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = e.NATS()
	}
}

func BenchmarkFromNATS(b *testing.B) {
	m := message(usual())
	m.Header[event.HeaderAccepted] = []string{"1767366245000000001"}
	b.ReportAllocs()
	for b.Loop() {
		_ = event.FromNATS(m)
	}
}

func BenchmarkFromNATSNative(b *testing.B) {
	m := message(usual())
	b.ReportAllocs()
	for b.Loop() {
		_ = event.FromNATS(m)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := usual()
	buf := make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
}

func BenchmarkUnmarshalJSON(b *testing.B) {
	body := usual().AppendJSON(nil)
	b.ReportAllocs()
	for b.Loop() {
		var e event.Event
		_ = e.UnmarshalJSON(body)
	}
}

func BenchmarkFromHTTP(b *testing.B) {
	h, body := usual().HTTP()
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = event.FromHTTP(h, body)
	}
}

func BenchmarkHTTP(b *testing.B) {
	e := usual()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = e.HTTP()
	}
}

func BenchmarkKafka(b *testing.B) {
	e := usual()
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = e.Kafka()
	}
}

func BenchmarkFromKafka(b *testing.B) {
	hs, key, value := usual().Kafka()
	r := event.KafkaRecord{Topic: "t", Key: key, Value: value, Headers: hs}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = event.FromKafka(r)
	}
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = event.Match("orders.*.created.>", "orders.eu.created.shop.42")
	}
}

func BenchmarkNewID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = event.NewID(t0)
	}
}

func BenchmarkKey(b *testing.B) {
	e := usual()
	b.ReportAllocs()
	for b.Loop() {
		_ = e.Key()
	}
}
