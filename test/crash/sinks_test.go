package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

const sinkRounds = 3

// tally counts what a sink received, by event id.
type tally struct {
	mu      sync.Mutex
	seen    map[string]int
	changed chan struct{} // holds a value after a change
}

func newTally() *tally { return &tally{seen: map[string]int{}, changed: make(chan struct{}, 1)} }

func (t *tally) add(id string) {
	t.mu.Lock()
	t.seen[id]++
	t.mu.Unlock()
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// await waits until every accepted event was seen and returns how many were
// missing in the end and how many came more than once.
func (t *tally) await(ctx context.Context, accepted map[string]bool) (missing, repeated int) {
	for {
		missing, repeated = t.count(accepted)
		if missing == 0 {
			return missing, repeated
		}
		select {
		case <-t.changed:
		case <-ctx.Done():
			return missing, repeated
		}
	}
}

func (t *tally) count(accepted map[string]bool) (missing, repeated int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range accepted {
		switch n := t.seen[id]; {
		case n == 0:
			missing++
		case n > 1:
			repeated++
		}
	}
	return missing, repeated
}

// TestKillNineLosesNothingAtSinks kills a node that delivers to a webhook
// receiver and to Kafka while clients publish. Both see every accepted event;
// repeats are allowed and printed.
func TestKillNineLosesNothingAtSinks(t *testing.T) {
	hooks, topic := newTally(), newTally()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e struct{ ID string }
		if json.NewDecoder(r.Body).Decode(&e) == nil {
			hooks.add(e.ID)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer receiver.Close()
	brokers := consume(t, topic)
	bridges := fmt.Sprintf("bridges: [{name: out, from: {mesh: {subjects: [crash.>]}}, to: {kafka: {brokers: [%q], topic: crash}}}]\n", brokers)
	bin, dir := build(t), t.TempDir()
	accepted := map[string]bool{}
	retry := make([]string, clients)
	for round := range sinkRounds {
		n := start(t, bin, dir, bridges)
		if round == 0 {
			n.hook(t, receiver.URL)
		}
		n.publish(t, round, accepted, retry)
		n.kill()
	}
	n := start(t, bin, dir, bridges)
	defer n.kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, sink := range map[string]*tally{"webhook": hooks, "kafka": topic} {
		missing, repeated := sink.await(ctx, accepted)
		t.Logf("%s: accepted %d, missing %d, repeated %d after %d kills", name, len(accepted), missing, repeated, sinkRounds)
		if missing > 0 {
			t.Errorf("%s lost %d of %d accepted events", name, missing, len(accepted))
		}
	}
}

// consume runs a Kafka with the topic crash and counts what is in it.
func consume(t *testing.T, into *tally) (broker string) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "crash"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("crash"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with the test
		defer close(done)
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				for _, h := range r.Headers {
					if h.Key == "ce_id" {
						into.add(string(h.Value))
					}
				}
			})
		}
	}()
	t.Cleanup(func() { cancel(); <-done; client.Close() })
	return cluster.ListenAddrs()[0]
}

// hook creates a webhook endpoint for everything.
func (n *node) hook(t *testing.T, url string) {
	t.Helper()
	body := fmt.Sprintf(`{"url":%q,"subjects":["crash.>"]}`, url)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.url+"/v1/webhooks", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusCreated || !strings.Contains(string(answer), "whsec_") {
		t.Fatalf("create endpoint: %s: %s", resp.Status, answer)
	}
}
