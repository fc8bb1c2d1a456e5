package transfer_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh/transfer"
)

// An exporter that ends a session, as when its filters change, tells the
// importer, which opens the next one at once instead of after its silence.
func TestFiltersOfExporterChange(t *testing.T) {
	r := newRig(t)
	r.x = r.exporter()
	var wide atomic.Bool
	r.x.Filters = func(transfer.Wants) (subjects, patterns []string) {
		if wide.Load() {
			return []string{"ev.a.>"}, []string{">"}
		}
		return []string{"ev.a.orders.>"}, []string{"orders.>"}
	}
	r.i = r.importer()
	r.link(t, r.i)
	native(t, r.bus("a"), "m", 10, 10)
	wefttest.Eventually(t, 10*time.Second, "a session", func() bool { return r.i.State().Session })
	wide.Store(true)
	start := time.Now()
	wefttest.Eventually(t, 10*time.Second, "the wider filters in force", func() bool { return slices.Equal(r.i.State().Filters, []string{">"}) })
	if took := time.Since(start); took > 2500*time.Millisecond {
		t.Errorf("it took %s: the importer was not told", took)
	}
}
