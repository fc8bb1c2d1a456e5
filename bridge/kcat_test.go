package bridge_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"weft.dev/weft/bridge"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/kafka"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wefttest"
)

// kcat runs librdkafka's command-line client against a broker.
func kcat(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("kcat is not installed")
		}
		t.Skip("kcat is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("kcat %v: %v\n%s", args, err, errs.String())
	}
	return out.String()
}

// A foreign Kafka client sees the CloudEvents binding, and what it produces
// becomes events.
func TestKcat(t *testing.T) {
	b := wefttest.Node(t)
	c := kafka.Cluster{Brokers: cluster(t, kfake.SeedTopics(1, "orders.created", "payments")).ListenAddrs(), Cluster: "test"}
	run(t, b,
		bridge.Config{Name: "out", From: bridge.From{Mesh: &bridge.MeshSource{Subjects: []string{"orders.>"}}}, To: bridge.To{Kafka: &kafka.SinkConfig{Cluster: c, Topic: driver.MustParse("{{subject}}")}}},
		bridge.Config{Name: "in", From: bridge.From{Kafka: &kafka.SourceConfig{Cluster: c, Topics: []string{"payments"}}}, To: bridge.To{Mesh: &bridge.MeshSink{Subject: driver.MustParse("payments.{{key | token}}")}}},
	)
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if _, err := b.Publish(t.Context(), bus.Publication{Subject: "orders.created", Event: event.Event{
		ID: "o-1", Source: "/shop", Type: "order.größe", Time: "2026-01-02T03:04:05Z", DataContentType: "application/json", Data: []byte(`{"n":1}`),
		Extensions: map[string]string{"partitionkey": "kunde-ß", "correlationid": "corr-1", "traceparent": traceparent},
	}}); err != nil {
		t.Fatal(err)
	}
	seen := kcat(t, "", "-b", c.Brokers[0], "-C", "-t", "orders.created", "-c", "1", "-f", `key=%k value=%s time=%T headers=%h\n`)
	for _, want := range []string{
		"key=kunde-ß ", `value={"n":1} `, "time=1767323045000 ", "ce_id=o-1", "ce_source=/shop", "ce_type=order.größe", "ce_specversion=1.0",
		"ce_time=2026-01-02T03:04:05Z", "content-type=application/json", "ce_correlationid=corr-1", "ce_traceparent=" + traceparent, "ce_weftpath=test/out",
	} {
		if !strings.Contains(seen, want) {
			t.Errorf("kcat does not see %q in\n%s", want, seen)
		}
	}
	kcat(t, "k 1:paid 10 €", "-b", c.Brokers[0], "-P", "-t", "payments", "-K", ":", "-H", "currency=EUR", "-H", "traceparent="+traceparent)
	kcat(t, "ok", "-b", c.Brokers[0], "-P", "-t", "payments", "-k", "k2", "-H", "ce_specversion=1.0", "-H", "ce_id=p-7", "-H", "ce_type=payment.refused", "-H", "ce_source=/bank", "-H", "content-type=text/plain")
	got := collect(t, b, "payments.>", 2)
	plain, ce := got[0], got[1]
	if plain.Path != "payments.k_1" || plain.ID != "payments/0/0" || plain.Source != "/kafka/test/payments" || plain.Type != "payments.k_1" ||
		string(plain.Data) != "paid 10 €" || plain.Headers["currency"][0] != "EUR" || plain.Headers[event.HeaderKey][0] != "k 1" || plain.Traceparent() != traceparent {
		t.Errorf("plain record became %+v", plain)
	}
	if ce.Path != "payments.k2" || ce.ID != "p-7" || ce.Type != "payment.refused" || ce.Source != "/bank" || ce.DataContentType != "text/plain" {
		t.Errorf("CloudEvent became %+v", ce)
	}
}
