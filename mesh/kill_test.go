package mesh_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// childDir makes the test binary a node that publishes until it is killed.
const childDir = "WEFT_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(growChildDir); dir != "" {
		if err := growChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if err := waitTogether(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// waitTogether runs more tests at a time than there are processors, unless the
// command says how many: they mostly wait, for elections and timeouts. With the
// race detector they work.
func waitTogether() error {
	given := slowed
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)))
}

// child publishes from 8 callers and prints the id of each event that was acknowledged.
func child(dir string) error {
	n, err := mesh.New(local(), mesh.Deps{Scope: obs.Discard(), Site: "a", Node: "a-1", Dir: dir})
	if err != nil {
		return err
	}
	failed := make(chan error, 9)
	go func() { failed <- n.Run(context.Background()) }()
	select {
	case err := <-failed:
		return err
	case <-n.Ready():
	}
	var mu sync.Mutex
	for caller := range 8 {
		go func() {
			for i := 0; ; i++ {
				e := event.Event{ID: fmt.Sprintf("%d-%d-%d", os.Getpid(), caller, i), Data: make([]byte, 512)}
				e.Fill(event.Defaults{Subject: "orders.created", Source: "/test", Now: time.Now()})
				ack, err := n.Bus().Publish(context.Background(), bus.Publication{Subject: "orders.created", Event: e})
				if err != nil {
					failed <- err
					return
				}
				mu.Lock()
				fmt.Println(ack.ID)
				mu.Unlock()
			}
		}()
	}
	return <-failed
}

// Whatever was acknowledged before a kill -9 is in the stream, once.
func TestKill(t *testing.T) {
	deps := wefttest.Deps(t, "a")
	acked := map[string]bool{}
	for range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+deps.Dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if id := lines.Text(); strings.Count(id, "-") == 2 {
				acked[id] = true
			}
			if n == 300 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
	}
	n := wefttest.Start(t, local(), deps)
	seen := map[string]int{}
	for _, id := range ids(t, n.Bus())["a"] {
		seen[id]++
		if seen[id] > 1 {
			t.Errorf("%s is stored twice", id)
		}
	}
	if len(acked) < 1500 {
		t.Errorf("only %d events were acknowledged", len(acked))
	}
	for id := range acked {
		if seen[id] == 0 {
			t.Errorf("%s was acknowledged and is lost", id)
		}
	}
}
