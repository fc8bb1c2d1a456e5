package bridge

import "weft.dev/weft/bridge/driver"

// Ends are two ends under a test's control.
type Ends struct {
	Source    driver.Source
	Sink      driver.Sink
	From, To  driver.Info
	Dest, Key driver.Template
}

// NewWith builds one bridge between the given ends.
func NewWith(cfg Config, d Deps, e Ends) *Service {
	r := newRelay(cfg.withDefaults(), d, newMetrics(d.Metrics), func(Config, Deps, func(string, error)) twoEnds {
		return twoEnds{source: e.Source, sink: e.Sink, from: e.From, to: e.To, dest: e.Dest, key: e.Key}
	})
	return &Service{relays: []*relay{r}}
}

// The two ends at the mesh.
var (
	NewMeshSource = newMeshSource
	NewMeshSink   = newMeshSink
)
