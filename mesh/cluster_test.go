package mesh_test

import (
	"testing"
	"time"

	"weft.dev/weft/internal/wefttest"
)

// Three nodes that know one address form a site; what one accepts, all hold.
func TestClusterForms(t *testing.T) {
	start := time.Now()
	c := wefttest.NewCluster(t, "a", 3, nil)
	t.Logf("writable after %s", time.Since(start))
	for i, n := range c.Nodes {
		publish(t, n.Bus(), "orders.created", n.Node, 100)
		if got := len(n.Members()); got != 3 {
			t.Errorf("node %d sees %d members, want 3", i, got)
		}
	}
	for _, n := range c.Nodes {
		wefttest.Eventually(t, 10*time.Second, "all events", func() bool { return total(ids(t, n.Bus())) == 300 })
	}
}
