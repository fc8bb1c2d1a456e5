package loadtest_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/loadtest"
)

func TestNATS(t *testing.T) {
	cfg := loadtest.DefaultNATS()
	_, cfg.URL = wefttest.Listening(t)
	_, cfg.Compare = wefttest.Listening(t)
	cfg.Duration, cfg.Warmup, cfg.Rounds = 400*time.Millisecond, 0, 2
	r, err := loadtest.NATS(t.Context(), cfg, nil)
	if err != nil || r.Failed() != nil {
		t.Fatalf("%v, %v", err, r.Failed())
	}
	if c := r.Compare; c == nil || len(c.Rounds) != 2 || c.Accepted == 0 || c.Ratio <= 0 {
		t.Errorf("comparison = %+v", r.Compare)
	}
	nc, err := nats.Connect(cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Stream(t.Context(), "LOAD_NATS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the scenario's stream is left behind: %v", err)
	}
	cfg.Compare = "http://127.0.0.1:1"
	if _, err := loadtest.NATS(t.Context(), cfg, nil); !errors.Is(err, event.ErrRejected) || !strings.Contains(err.Error(), "compare: want ") {
		t.Errorf("err = %v, want a rejected compare", err)
	}
}
