package idle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// node is one `weft run` process.
type node struct {
	name, dir      string
	gateway, admin string // addresses
	config         string
	cmd            *exec.Cmd
	gone           chan struct{} // closed when the process has ended
	end            error         // how; to be read once gone is closed
}

// makeSite writes what the nodes of a site need.
func makeSite(dir string, size int) ([]*node, error) {
	ports, err := freePorts(4 * size)
	if err != nil {
		return nil, err
	}
	var nodes []*node
	for i := range size {
		p := ports[4*i:]
		n := &node{name: fmt.Sprintf("idle-%d", i+1), gateway: p[0], admin: p[1]}
		n.dir = filepath.Join(dir, n.name)
		mesh := `  client: {listen: "127.0.0.1:0"}`
		if size > 1 {
			mesh += fmt.Sprintf("\n  cluster: {listen: %q, size: %d}\n  gossip: {listen: %q, join: [%q], key: weft-load-idle-key}", p[2], size, p[3], ports[3])
		}
		n.config = fmt.Sprintf("site: idle\nnode: %s\ndata: %q\nmesh:\n%s\ngateway: {listen: %q}\nadmin: {listen: %q}\n", n.name, n.dir, mesh, n.gateway, n.admin)
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// freePorts are loopback addresses that are free now.
func freePorts(count int) ([]string, error) {
	var out []string
	for range count {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all stay open until the last is found, so that none comes twice
		out = append(out, l.Addr().String())
	}
	return out, nil
}

func (n *node) start(binary string) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	file := filepath.Join(n.dir, "weft.yaml")
	if err := os.WriteFile(file, []byte(n.config), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(n.dir, "log.txt"))
	if err != nil {
		return err
	}
	defer log.Close()                              // the child has its own
	cmd := exec.Command(binary, "run", "-c", file) //nolint:noctx // it is stopped in good order
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, n.dir
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", n.name, err)
	}
	n.cmd, n.gone = cmd, make(chan struct{})
	go func() { // ends with the process
		n.end = cmd.Wait()
		close(n.gone)
	}()
	return nil
}

// readyTimeout is how long a site may take to form on a busy machine.
const readyTimeout = time.Minute

func (n *node) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close() // nothing is read of it
			if resp.StatusCode == http.StatusOK {
				http.DefaultClient.CloseIdleConnections() // the node shall have nothing to hold
				return nil
			}
		}
		select {
		case <-n.gone:
			log, _ := os.ReadFile(filepath.Join(n.dir, "log.txt")) // without it there is still the error
			return fmt.Errorf("node %s ended: %w\n%s", n.name, n.end, log)
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w", n.name, ctx.Err())
		case <-tick.C:
		}
	}
}

// memory reads what the process holds.
func (n *node) memory(m *Memory) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		return fmt.Errorf("memory of node %s: %w", n.name, err)
	}
	found := 0
	for line := range bytes.Lines(status) {
		name, value, _ := strings.Cut(string(line), ":")
		into := map[string]*int{"VmRSS": &m.RSS, "RssAnon": &m.Anon, "RssFile": &m.File}[name]
		if into == nil {
			continue
		}
		if *into, err = strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB")); err != nil {
			return fmt.Errorf("memory of node %s: %s: %w", n.name, name, err)
		}
		found++
	}
	if found != 3 {
		return fmt.Errorf("memory of node %s: /proc tells %d of VmRSS, RssAnon, RssFile", n.name, found)
	}
	return nil
}

// stopTimeout is how long a node may take to stop in good order.
const stopTimeout = 20 * time.Second

// stopAll ends the processes that were started.
func stopAll(nodes []*node) error {
	var errs []error
	for _, n := range nodes {
		if n.cmd != nil {
			errs = append(errs, ignoreDone(n.cmd.Process.Signal(os.Interrupt)))
		}
	}
	for _, n := range nodes {
		if n.cmd == nil {
			continue
		}
		select {
		case <-n.gone:
		case <-time.After(stopTimeout):
			errs = append(errs, fmt.Errorf("node %s does not stop: killed after %s", n.name, stopTimeout), ignoreDone(n.cmd.Process.Kill()))
			<-n.gone
		}
	}
	return errors.Join(errs...)
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
