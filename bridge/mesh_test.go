package bridge_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"weft.dev/weft/bridge"
	"weft.dev/weft/bridge/bridgetest"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/kafka"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/dlq"
	"weft.dev/weft/internal/wefttest"
)

func TestMeshSourceConformance(t *testing.T) {
	bridgetest.Source(t, func(t *testing.T) bridgetest.SourceRig {
		b := wefttest.Node(t)
		return bridgetest.SourceRig{
			New: func(d driver.Deps) driver.Source {
				return bridge.NewMeshSource(bridge.MeshSource{Subjects: []string{"test.>"}}, b, d)
			},
			Ordered: true,
			Put: func(t testing.TB, events []event.Event) {
				var pubs []bus.Publication
				for _, e := range events {
					pubs = append(pubs, bus.Publication{Subject: "test.created", Event: e})
				}
				for _, r := range b.PublishAll(t.Context(), pubs) {
					if r.Err != nil {
						t.Fatal(r.Err)
					}
				}
			},
		}
	})
}

func TestMeshSinkConformance(t *testing.T) {
	bridgetest.Sink(t, func(t *testing.T) bridgetest.SinkRig {
		b := wefttest.Node(t)
		return bridgetest.SinkRig{
			New: func(d driver.Deps) driver.Sink {
				return bridge.NewMeshSink(bridge.MeshSink{Subject: driver.MustParse("out.x")}, b, d)
			},
			Dest:    "out.x",
			Ordered: true,
			Read: func(t testing.TB) []event.Event {
				var out []event.Event
				for after := uint64(0); ; {
					page, next, err := b.Page(t.Context(), bus.PageConfig{Pattern: "out.>", After: after, Max: 500})
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range page {
						out = append(out, s.Event)
					}
					if len(page) == 0 {
						return out
					}
					after = next
				}
			},
			TooLarge: event.Event{ID: "large", Source: "/test", Type: "test", Data: make([]byte, 2<<20)},
		}
	})
}

// What the mesh refuses becomes a dead letter that can be replayed elsewhere.
func TestDeadLetterFromKafkaToMesh(t *testing.T) {
	b := wefttest.Node(t)
	c := kafka.Cluster{Brokers: cluster(t, kfake.SeedTopics(1, "payments")).ListenAddrs(), Cluster: "test"}
	_, letters, _ := run(t, b, bridge.Config{Name: "in", From: bridge.From{Kafka: &kafka.SourceConfig{Cluster: c, Topics: []string{"payments"}}}, To: bridge.To{Mesh: &bridge.MeshSink{Subject: driver.MustParse("payments.{{key}}")}}})
	kcat(t, "a b:not a token\nok:fine", "-b", c.Brokers[0], "-P", "-t", "payments", "-K", ":")
	if got := collect(t, b, "payments.>", 1); string(got[0].Data) != "fine" {
		t.Errorf("stored %+v", got)
	}
	var all []dlq.Entry
	wefttest.Eventually(t, 10*time.Second, "a dead letter", func() bool {
		all, _, _ = letters.List(t.Context(), dlq.Query{Owner: "in"})
		return len(all) == 1
	})
	if e := all[0]; e.Reason != "rejected" || e.Stream != "payments" || e.Position != "0/0" || e.Subject != "" || string(e.Event.Data) != "not a token" || !strings.Contains(e.Error, "subject") {
		t.Errorf("dead letter = %+v", e)
	}
	out, err := letters.Replay(t.Context(), dlq.Replay{Seqs: []uint64{all[0].Seq}, Subject: "payments.fixed"})
	if err != nil || !out[0].Done {
		t.Fatalf("replay = %+v, %v", out, err)
	}
	if got := collect(t, b, "payments.fixed", 1); got[0].ID != "payments/0/0" {
		t.Errorf("replayed %+v", got)
	}
}

func TestAdminAPI(t *testing.T) {
	b := wefttest.Node(t)
	c := kafka.Cluster{Brokers: cluster(t, kfake.SeedTopics(1, "out")).ListenAddrs(), Cluster: "test"}
	to := func(topic string) bridge.To {
		return bridge.To{Kafka: &kafka.SinkConfig{Cluster: c, Topic: driver.MustParse(topic)}}
	}
	from := bridge.From{Mesh: &bridge.MeshSource{Subjects: []string{"orders.>"}}}
	s, _, _ := run(t, b, bridge.Config{Name: "good", From: from, To: to("out")}, bridge.Config{Name: "bad", From: from, To: to("nope")})
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	call := func(method, path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	if _, err := b.Publish(t.Context(), bus.Publication{Subject: "orders.x", Event: event.Event{ID: "1", Source: "/s", Type: "t"}}); err != nil {
		t.Fatal(err)
	}
	states := func() (all []bridge.Status) {
		_, body := call("GET", "/api/bridges")
		var out struct{ Bridges []bridge.Status }
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			t.Fatal(err)
		}
		return out.Bridges
	}
	wefttest.Eventually(t, 20*time.Second, "one bridge that runs and one that says why not", func() bool {
		all := states()
		return all[0].State == bridge.Running && all[0].Stored == 1 && all[1].State == bridge.Retrying && strings.Contains(all[1].Reason, `topic "nope" does not exist`)
	})
	if code, body := call("GET", "/api/bridges/check"); code != 200 || strings.Count(body, "Error") != 1 || !strings.Contains(body, `topic \"nope\" does not exist`) {
		t.Errorf("check = %d %s", code, body)
	}
	if code, _ := call("POST", "/api/bridges/good/pause"); code != 204 {
		t.Errorf("pause = %d", code)
	}
	wefttest.Eventually(t, 10*time.Second, "a pause", func() bool { return states()[0].State == bridge.Paused })
	if code, _ := call("POST", "/api/bridges/good/resume"); code != 204 {
		t.Errorf("resume = %d", code)
	}
	wefttest.Eventually(t, 10*time.Second, "a resume", func() bool { return states()[0].State == bridge.Running })
	if code, body := call("POST", "/api/bridges/none/pause"); code != 404 || !strings.Contains(body, "not-found") {
		t.Errorf("pause of none = %d %s", code, body)
	}
	names := []string{states()[0].From, states()[0].To}
	if want := []string{"mesh orders.>", "kafka out (" + c.Brokers[0] + ")"}; !slices.Equal(names, want) {
		t.Errorf("ends = %q, want %q", names, want)
	}
}

// A header from outside must never command the node's stream.
func TestHeadersFromOutsideAreNoCommands(t *testing.T) {
	b := wefttest.Node(t)
	d, _ := bridgetest.Deps(t)
	sink := bridge.NewMeshSink(bridge.MeshSink{Subject: driver.MustParse("out.x")}, b, d)
	first := event.Event{ID: "1", Source: "/s", Type: "t"}
	evil := event.Event{ID: "2", Source: "/s", Type: "t", Headers: map[string][]string{
		"Nats-Rollup": {"all"}, "Nats-TTL": {"1s"}, "Nats-Expected-Last-Sequence": {"1"}, "X-Kept": {"yes"},
	}}
	for _, e := range []event.Event{first, evil} {
		if errs := sink.Write(t.Context(), []*driver.Record{{Event: e, Dest: "out.x", At: time.Now()}}); errs != nil {
			t.Fatal(errs)
		}
	}
	got := collect(t, b, "out.>", 2)
	if got[0].ID != "1" || got[1].Headers["X-Kept"][0] != "yes" {
		t.Errorf("stored %+v", got)
	}
}
