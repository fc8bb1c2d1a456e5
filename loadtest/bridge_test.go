package loadtest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft.dev/weft/loadtest"
)

// TestBridge uses a stand-in for a node with a bridge: what is published is
// produced to the topic by the event's partition key, except every 10th event,
// and every 15th twice.
func TestBridge(t *testing.T) {
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	producer, err := kgo.NewClient(kgo.SeedBrokers(kafka.ListenAddrs()...), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	var faulty atomic.Bool
	var n, dropped, doubled atomic.Uint64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		record := func() *kgo.Record { return &kgo.Record{Key: []byte(r.Header.Get("Ce-Partitionkey")), Value: body} }
		i := n.Add(1)
		switch {
		case faulty.Load() && i%10 == 0:
			dropped.Add(1)
		case faulty.Load() && i%15 == 7:
			doubled.Add(1)
			producer.ProduceSync(r.Context(), record(), record())
		default:
			producer.ProduceSync(r.Context(), record())
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer srv.Close()

	cfg := loadtest.DefaultBridge()
	cfg.Server, cfg.Brokers, cfg.Topic, cfg.Subject = srv.URL, kafka.ListenAddrs(), "orders", "orders.load"
	cfg.Duration, cfg.Warmup, cfg.Rate, cfg.Connections, cfg.Keys = 500*time.Millisecond, 100*time.Millisecond, 100, 4, 4
	r, err := loadtest.Bridge(t.Context(), cfg, nil)
	if err != nil || r.Failed() != nil || len(r.Errors) > 0 {
		t.Fatalf("%v, %v, errors %v, %+v", err, r.Failed(), r.Errors, r.Delivery)
	}
	if r.Delivery.Delivered < r.Accepted || r.Delivery.Duplicates > 0 || r.Delivery.Disordered > 0 {
		t.Errorf("delivery = %+v of %d accepted", r.Delivery, r.Accepted)
	}

	faulty.Store(true)
	cfg.Grace = 300 * time.Millisecond
	r, err = loadtest.Bridge(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Delivery; d.Lost != dropped.Load() || d.Duplicates != doubled.Load() || r.Failed() == nil {
		t.Errorf("delivery = %+v with %d dropped and %d doubled", d, dropped.Load(), doubled.Load())
	}
}

func TestBridgeRefusals(t *testing.T) {
	cfg := loadtest.DefaultBridge()
	cfg.Server = "http://127.0.0.1:1"
	_, err := loadtest.Bridge(t.Context(), cfg, nil)
	for _, field := range []string{"brokers", "topic", "subject"} {
		if err == nil || !strings.Contains(err.Error(), field+": want ") {
			t.Errorf("err = %v, want %s named", err, field)
		}
	}
	cfg.Brokers, cfg.Topic, cfg.Subject = []string{"127.0.0.1:1"}, "orders", "orders.load"
	if _, err = loadtest.Bridge(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), "connect to kafka") {
		t.Errorf("err = %v, want the broker named", err)
	}
}
