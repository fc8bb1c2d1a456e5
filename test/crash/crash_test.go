// Package crash_test kills real processes while they work and counts. It makes
// no compatibility promise.
package crash_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	rounds  = 10
	clients = 4
	perKill = 300 // accepted events after which a round's kill comes
)

// TestKillNineLosesNothingAccepted kills a node with SIGKILL ten times while
// four clients publish, each client repeating what was not answered with the
// same id, as a careful client does. Afterwards every event that was answered
// 202 is in the stream, and no id stands in it twice.
func TestKillNineLosesNothingAccepted(t *testing.T) {
	bin := build(t)
	dir := t.TempDir()
	accepted := map[string]bool{}
	retry := make([]string, clients) // the id each client was not answered for
	for round := range rounds {
		n := start(t, bin, dir, "")
		n.publish(t, round, accepted, retry)
		n.kill()
	}
	n := start(t, bin, dir, "")
	defer n.kill()
	found := n.stored(t)
	lost, twice := 0, 0
	for id := range accepted {
		if found[id] == 0 {
			lost++
		}
	}
	for _, times := range found {
		if times > 1 {
			twice++
		}
	}
	t.Logf("rounds %d, accepted %d, stored %d, lost %d, twice %d", rounds, len(accepted), len(found), lost, twice)
	if lost > 0 || twice > 0 {
		t.Errorf("lost %d of %d accepted, %d ids stored twice", lost, len(accepted), twice)
	}
	if len(accepted) < rounds*perKill {
		t.Errorf("accepted = %d, want at least %d: the test did not work hard enough", len(accepted), rounds*perKill)
	}
}

func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weft")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "weft.dev/weft/cmd/weft")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// node is a running weft process.
type node struct {
	cmd  *exec.Cmd
	url  string
	once sync.Once
}

// start runs a node on free ports and waits until it prints its addresses. more
// is further configuration.
func start(t *testing.T, bin, dir, more string) *node {
	t.Helper()
	file := filepath.Join(dir, "weft.yaml")
	text := "site: crash\nnode: crash-1\ndata: " + filepath.Join(dir, "data") + `
mesh: {client: {listen: "127.0.0.1:0"}}
gateway: {listen: "127.0.0.1:0", webhooks: {allowNetworks: [127.0.0.0/8], retry: [100ms, 200ms, 500ms, 1s, 2s, 5s]}}
admin: {listen: "127.0.0.1:0"}
telemetry: {log: {format: json}}
` + more
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &node{cmd: exec.Command(bin, "run", "-c", file)}
	stderr, err := n.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.kill)
	ready := make(chan string, 1)
	go func() { // ends with the process
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var line struct{ Msg, Gateway string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "node ready" {
				ready <- line.Gateway
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
	}()
	select {
	case n.url = <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the node is not ready after 20 s")
	}
	return n
}

func (n *node) kill() {
	n.once.Do(func() {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait() // "signal: killed" is what we asked for
	})
}

// publish lets all clients publish until enough was accepted, then kills the
// node under them.
func (n *node) publish(t *testing.T, round int, accepted map[string]bool, retry []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answers := make(chan string)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := retry[c]
				if id == "" {
					id = fmt.Sprintf("r%d-c%d-%d", round, c, i)
				}
				retry[c] = id
				if !n.post(ctx, id) {
					return // killed: the next round asks again for this id
				}
				retry[c] = ""
				answers <- id
			}
		})
	}
	go func() { wg.Wait(); close(answers) }()
	count := 0
	for id := range answers {
		accepted[id] = true
		if count++; count == perKill {
			n.kill()
		}
	}
}

// post publishes one event and reports whether it was accepted.
func (n *node) post(ctx context.Context, id string) bool {
	body := strings.NewReader(`{"n":1}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+"/v1/events/crash.test", body)
	if err != nil {
		return false
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "Ce-Id": {id}, "Ce-Source": {"/crash"}, "Ce-Type": {"t"}, "Ce-Specversion": {"1.0"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusAccepted
}

// stored counts the ids in the whole stream, read over SSE until it is live.
func (n *node) stored(t *testing.T) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+"/v1/events?subject=crash.test&start=all", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	found := map[string]int{}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue
		}
		var m struct{ T, ID string }
		if err := json.Unmarshal([]byte(data), &m); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if m.T == "live" {
			return found
		}
		if m.ID != "" {
			found[m.ID]++
		}
	}
	t.Fatalf("the stream ended before it was live: %v", lines.Err())
	return nil
}
