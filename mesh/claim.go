package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"weft.dev/weft/internal/conf"
)

const (
	storeDir   = "nats"
	lockFile   = "weft.lock"
	markerFile = "weft-site.json"
)

// marker says whose data a directory holds.
type marker struct {
	Site string `json:"site"`
	Node string `json:"node"`
	// Cluster: the server would take streams of a single node for orphans of the
	// cluster and delete them.
	Cluster bool `json:"cluster,omitempty"`
}

// claim takes a data directory for this process and this node. The store must
// never be opened by two processes, nor under another site's name: its events
// would change their origin.
func claim(dir string, m marker) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, dataError(err)
	}
	lock, err := lockPath(filepath.Join(dir, lockFile))
	if errors.Is(err, errLocked) {
		return nil, dataError(fmt.Errorf("%s is in use by another process", dir))
	}
	if err != nil {
		return nil, dataError(err)
	}
	if err := checkMarker(filepath.Join(dir, markerFile), m); err != nil {
		return nil, errors.Join(dataError(err), lock.Close())
	}
	return lock.Close, nil
}

func dataError(err error) error {
	return fmt.Errorf("open data directory: %w", conf.Field("data", err.Error()))
}

// checkMarker compares the marker with the node, or writes it into a new directory.
func checkMarker(path string, m marker) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		raw, err = json.Marshal(m)
		if err != nil {
			return err
		}
		return writeWhole(path, append(raw, '\n'))
	}
	if err != nil {
		return err
	}
	var old marker
	if err := json.Unmarshal(raw, &old); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	if old.Cluster != m.Cluster {
		return fmt.Errorf("%s was made with %s, the configuration has %s: a store cannot change between the two (mesh.cluster.size)",
			filepath.Dir(path), sizeName(old), sizeName(m))
	}
	if old != m {
		return fmt.Errorf("%s belongs to node %s of site %s, not to node %s of site %s: set node and site to these, or another directory",
			filepath.Dir(path), old.Node, old.Site, m.Node, m.Site)
	}
	return nil
}

func sizeName(m marker) string {
	if m.Cluster {
		return "several nodes"
	}
	return "one node"
}

// writeWhole writes a file that is there entirely or not at all, whenever the
// process or the machine dies: a damaged marker would lock its own node out.
func writeWhole(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error says more
	}
	return err
}

var errLocked = errors.New("locked")
