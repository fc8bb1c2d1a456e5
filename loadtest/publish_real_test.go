package loadtest_test

import (
	"testing"
	"time"

	"weft.dev/weft/loadtest"
)

func TestPublishToANode(t *testing.T) {
	cfg := short(node(t, nil))
	cfg.Connections, cfg.Duration = 16, 500*time.Millisecond
	r, err := loadtest.Publish(t.Context(), cfg, nil)
	if err != nil || r.Failed() != nil || len(r.Errors) > 0 {
		t.Fatalf("%v, %v, errors %v", err, r.Failed(), r.Errors)
	}
	t.Logf("%.0f/s, %s", r.Rate, r.Latency)
}
