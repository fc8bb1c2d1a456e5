package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// node is one `weft run` process, which comes and goes with its data.
type node struct {
	name string
	site *site
	dir  string // configuration, data and log
	// roomy: it does not share the machine with a dozen others.
	roomy bool

	client, cluster, gossip, links, gateway, admin string // addresses

	disk  *volume // of its own, if it is to be filled
	spawn *spawner
	mu    sync.Mutex
	cmd   *exec.Cmd     // guarded by mu; nil: it does not run
	gone  chan struct{} // guarded by mu: closed when the process has ended
	meant bool          // guarded by mu: its end is wanted
	lost  []string      // guarded by mu: ends that nobody wanted
}

// spawner starts processes from a thread that lives as long as they may: Linux
// sends the signal of a parent's death when the thread that forked dies.
type spawner struct {
	calls chan func()
}

func newSpawner() *spawner {
	s := &spawner{calls: make(chan func())}
	go func() { // ends with close
		runtime.LockOSThread()
		for f := range s.calls {
			f()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	done := make(chan error)
	s.calls <- func() { done <- cmd.Start() }
	return <-done
}

func (s *spawner) close() { close(s.calls) }

// memory bounds a node's heap: a dozen of them share a machine. With 384 MiB, a
// site of three at 2,000 events a second spent its time collecting after ten minutes.
const memory = "GOMEMLIMIT=1GiB"

// start starts the process; it is not ready yet.
func (n *node) start(binary string) error {
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()                                                           // the child has its own
	cmd := exec.Command(binary, "run", "-c", filepath.Join(n.dir, "weft.yaml")) //nolint:noctx // it is ended by signals, which are the point
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, n.dir
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "WEFT_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	if !n.roomy {
		cmd.Env = append(cmd.Env, memory)
	}
	guard(cmd)
	if err := n.spawn.start(cmd); err != nil {
		return fmt.Errorf("start node %s: %w", n.name, err)
	}
	gone := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.gone, n.meant = cmd, gone, false
	n.mu.Unlock()
	go func() { // ends with the process
		err := cmd.Wait()
		n.mu.Lock()
		if !n.meant {
			n.lost = append(n.lost, fmt.Sprintf("node %s ended by itself at %s: %v", n.name, time.Now().Format(clock), err))
		}
		n.cmd = nil
		n.mu.Unlock()
		close(gone)
	}()
	return nil
}

func (n *node) data() string { return filepath.Join(n.dir, "data") }

func (n *node) logFile() string { return filepath.Join(n.dir, "log.txt") }

// signal sends s; ends tells that the process shall end by it.
func (n *node) signal(s syscall.Signal, ends bool) (gone <-chan struct{}, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return nil, fmt.Errorf("node %s does not run", n.name)
	}
	if ends {
		n.meant = true
	}
	return n.gone, send(n.cmd.Process, s)
}

// kill ends the process at once.
func (n *node) kill() error {
	gone, err := n.signal(sigKill, true)
	if err == nil {
		<-gone
	}
	return err
}

// stopTimeout is how long a node may take to stop in good order.
const stopTimeout = 30 * time.Second

// stop ends the process in good order.
func (n *node) stop(ctx context.Context) error {
	gone, err := n.signal(sigTerm, true)
	if err != nil {
		return err
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("node %s does not stop: killed after %s", n.name, stopTimeout), n.kill())
	}
}

func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// unwanted are the ends of the process that nobody wanted.
func (n *node) unwanted() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lost
}

// asking is the client for a node's state.
var asking = &http.Client{Timeout: 4 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 10 * time.Second}}

func (n *node) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+path, nil)
	if err != nil {
		return err
	}
	resp, err := asking.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %s: %s", n.name+path, resp.Status, strings.TrimSpace(string(body)))
	case into == nil:
		return nil
	}
	return json.Unmarshal(body, into)
}

// status is what is read of /api/mesh.
type status struct {
	Node   string `json:"node"`
	Stream struct {
		Leader   string `json:"leader"`
		Last     uint64 `json:"last"`
		Replicas []struct {
			Node    string `json:"node"`
			Up      bool   `json:"up"`
			Current bool   `json:"current"`
			Lag     uint64 `json:"lag"`
		} `json:"replicas"`
	} `json:"stream"`
	Links []struct {
		Site      string `json:"site"`
		Up        bool   `json:"up"`
		Importing bool   `json:"importing"`
		Exporting bool   `json:"exporting"`
		Taken     uint64 `json:"taken"`
		Problem   string `json:"problem"`
	} `json:"links"`
	Problem string `json:"problem"`
}

func (n *node) ready(ctx context.Context) error { return n.get(ctx, "/readyz", nil) }

func (n *node) status(ctx context.Context) (status, error) {
	var st status
	err := n.get(ctx, "/api/mesh", &st)
	return st, err
}

// defects are texts of the log that tell of a defect: a crash, and a link that
// lost its position, which no fault here gives a reason for.
var defects = []string{"panic:", "fatal error:", "DATA RACE", "was made anew", "went back to an earlier state", "removed before a linked site"}

// complaints are the log's lines that tell of a defect, and its other errors.
func (n *node) complaints() (defective, others []string) {
	data, err := os.ReadFile(n.logFile())
	if err != nil {
		return nil, nil
	}
	for line := range strings.Lines(string(data)) {
		text := n.name + ": " + strings.TrimSpace(line)
		switch {
		case slices.ContainsFunc(defects, func(d string) bool { return strings.Contains(line, d) }):
			defective = append(defective, text)
		case strings.Contains(line, "level=ERROR"):
			others = append(others, text)
		}
	}
	return defective, others
}
