package transfer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// Set, they make the test binary a node of site b that imports from the site at
// an address until it is killed.
const (
	childDir = "WEFT_TEST_CHILD_DIR"
	childURL = "WEFT_TEST_CHILD_URL"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		n, err := mesh.New(importing(os.Getenv(childURL)), mesh.Deps{Scope: obs.Discard(), Site: "b", Node: "b-1", Dir: dir})
		if err == nil {
			err = n.Run(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func importing(url string) mesh.Config {
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = ""
	cfg.Links.Sites = []mesh.Link{{Name: "a", URLs: []string{url}, Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}}
	return cfg
}

// An importer killed in the middle of an import goes on where it was: nothing is
// lost, and nothing doubled, though the events have no ids to tell by.
func TestKillImporter(t *testing.T) {
	t.Parallel()
	cfg := mesh.DefaultConfig()
	cfg.Client.Listen = ""
	cfg.Links.Listen = "127.0.0.1:0"
	cfg.Links.Sites = []mesh.Link{{Name: "b", Secret: wefttest.Secret, Export: []string{">"}, Import: []string{">"}}}
	a := wefttest.Start(t, cfg, wefttest.Deps(t, "a"))
	deps := wefttest.Deps(t, "b")
	var want []string
	acks := make(chan struct{}, 16)
	sub, err := a.Bus().Conn().Subscribe("wl.a.b.ack.>", func(*nats.Msg) {
		select {
		case acks <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for round := range 4 {
		prefix := fmt.Sprint(round)
		native(t, a.Bus(), prefix, 700, 2000)
		want = append(want, series(prefix, 700)...)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+deps.Dir, childURL+"="+a.LinkURL())
		cmd.Stderr = os.Stderr
		for len(acks) > 0 {
			<-acks
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 1 + round { // of the many batches that it takes
			select {
			case <-acks:
			case <-time.After(20 * time.Second):
				t.Error("no acknowledgement")
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
	}
	b := wefttest.Start(t, importing(a.LinkURL()), deps)
	wefttest.Eventually(t, 30*time.Second, "all events at b", func() bool { return held(t, b.Bus()) >= len(want) })
	if got := names(t, b.Bus()); !slices.Equal(got, want) {
		t.Errorf("b holds %d events, want the %d of a in their order", len(got), len(want))
	}
}
