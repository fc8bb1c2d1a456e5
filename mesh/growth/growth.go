// Package growth carries the streams of a site of one node into the cluster
// that the site becomes. Take writes every stream with its consumers into
// files, by the server's own snapshots; Carrier restores them, so that
// sequences, times, metadata and the state of consumers stay what they were.
// It knows nothing of nodes and their directories. It makes no compatibility
// promise.
package growth

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// Gate is the stream that exists while a site grows. Nodes wait until it is
	// gone; its messages name the streams that are complete.
	Gate = "WEFT_GROWTH"
	// gateSubject takes the names of complete streams.
	gateSubject = "weft.growth"
	// manifestFile is written last: with it all streams are in the directory.
	manifestFile = "growth.json"
	// chunk is what one message of a snapshot carries, and window how many bytes
	// are under way: a node has enough of both at a fraction of max_payload.
	chunk  = 256 << 10
	window = 8 << 20
	// overhead is what a message takes in a store beyond subject, headers and data.
	overhead = 30
)

// Manifest says what a directory holds.
type Manifest struct {
	ID      string    `json:"id"` // of this growth
	Site    string    `json:"site"`
	Node    string    `json:"node"`
	At      time.Time `json:"at"`
	Streams []Stream  `json:"streams"` // in the order in which they are restored
}

// Stream is one stream of the store.
type Stream struct {
	Config    server.StreamConfig `json:"config"`
	State     server.StreamState  `json:"state"` // when its snapshot was taken
	Consumers []Consumer          `json:"consumers,omitempty"`
	File      string              `json:"file"`
	Size      int64               `json:"size"`   // of the file
	Sum       string              `json:"sha256"` // of the file
	// Largest is the size of the largest message, headers and data: a stream that
	// draws from others may hold larger ones than clients may publish.
	Largest int64 `json:"largest"`
}

// Consumer is a durable consumer of a stream and how far it had come; neither
// number ever becomes smaller.
type Consumer struct {
	Name      string `json:"name"`
	Delivered uint64 `json:"delivered"`
	Acked     uint64 `json:"acked"` // all up to here
}

// Progress tells how far a snapshot or a restore has come.
type Progress struct {
	Stream      string
	Index, Of   int    // of the stream, from 1
	Bytes, Size uint64 // of the stream's messages
	All, Total  uint64 // of all streams
	Done        bool   // the stream is complete
}

// Report is called with progress, many times a second.
type Report func(Progress)

// Events is the sum of messages in all streams, Bytes of their sizes.
func (m Manifest) Events() (messages, bytes uint64) {
	for _, s := range m.Streams {
		messages += s.State.Msgs
		bytes += s.State.Bytes
	}
	return messages, bytes
}

// Load reads the manifest of a directory that Take has filled.
func Load(dir string) (Manifest, error) {
	var m Manifest
	raw, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		return m, fmt.Errorf("read growth: %w", err)
	}
	return m, nil
}

// save makes the directory complete.
func (m Manifest) save(dir string) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode growth: %w", err)
	}
	path := filepath.Join(dir, manifestFile)
	f, err := os.Create(path + ".new")
	if err != nil {
		return fmt.Errorf("save growth: %w", err)
	}
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("save growth: %w", err)
	}
	if err := errors.Join(os.Rename(path+".new", path), SyncDir(dir)); err != nil {
		return fmt.Errorf("save growth: %w", err)
	}
	return nil
}

// SyncDir makes names in a directory durable, where a system lets a directory be
// synced at all.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// arrange puts streams that draw from others before those. While a stream is
// being restored the ones that would draw from it are complete, and what they
// draw is never restored a second time.
func arrange(streams []Stream) []Stream {
	byName := map[string]Stream{}
	for _, s := range streams {
		byName[s.Config.Name] = s
	}
	var out []Stream
	placed := map[string]bool{}
	var place func(s Stream)
	place = func(s Stream) {
		if placed[s.Config.Name] {
			return
		}
		placed[s.Config.Name] = true // before the loop: streams may draw from each other
		for _, other := range streams {
			if draws(other.Config, s.Config.Name) {
				place(byName[other.Config.Name])
			}
		}
		out = append(out, s)
	}
	for _, s := range streams {
		place(s)
	}
	return out
}

func draws(cfg server.StreamConfig, from string) bool {
	for _, src := range append([]*server.StreamSource{cfg.Mirror}, cfg.Sources...) {
		if src != nil && src.External == nil && src.Name == from {
			return true
		}
	}
	return false
}
