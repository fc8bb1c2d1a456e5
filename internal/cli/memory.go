package cli

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// nodeGC trades memory for speed while a node works: its live heap is small, and
	// collecting it less often leaves more of the processor to events.
	nodeGC = 200
	// idleGC is the other way round for a node that does nothing: the collector runs
	// about four times a minute, for some milliseconds each.
	idleGC = 50
	// memoryLook is how often the memory looks at what the node does.
	memoryLook = 500 * time.Millisecond
	// busyBytes allocated between two looks are work; a quiet node of a site of three
	// allocates about 0.2 MB, most of it for gossip and elections.
	busyBytes = 4 << 20
	// quietLooks without work end a burst, so that short breaks in work cost nothing.
	quietLooks = 40
	// windowLooks after a burst nothing of it is live any more: the ids of events are
	// kept for the two minutes in which they would be duplicates.
	windowLooks = 300
)

// memory lets a node that does nothing hold little. The runtime keeps the heap
// that a burst needed (docs/memory.md).
type memory struct {
	tune      bool // GOGC is not set, so the pace of the collector is ours
	allocated uint64
	quiet     int // looks since the last work
}

// Run gives back what the start took, once, and then what each burst took.
func (m *memory) Run(ctx context.Context) error {
	debug.FreeOSMemory()
	m.allocated = allocated()
	tick := time.NewTicker(memoryLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			m.act(m.look(allocated()))
		}
	}
}

// step is what to do after a look.
type step struct {
	percent int  // new pace of the collector; 0: as it is
	release bool // give unused memory back to the system
}

// look judges the time since the last look by the bytes allocated until now.
func (m *memory) look(allocated uint64) step {
	since := allocated - m.allocated
	m.allocated = allocated
	if since >= busyBytes {
		worked := m.quiet < quietLooks
		m.quiet = 0
		if worked {
			return step{}
		}
		return step{percent: nodeGC}
	}
	m.quiet++
	switch m.quiet {
	case quietLooks:
		return step{percent: idleGC, release: true}
	case windowLooks:
		return step{release: true}
	}
	return step{}
}

func (m *memory) act(s step) {
	if s.percent != 0 && m.tune {
		debug.SetGCPercent(s.percent)
	}
	if s.release {
		debug.FreeOSMemory()
	}
}

// allocated counts the bytes that the process has allocated since its start.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
