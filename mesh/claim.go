package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/mesh/growth"
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
	// Growth is how far the change from one node to several has come; empty when
	// there is none.
	Growth growthStep `json:"growth,omitempty"`
}

// claim takes a data directory for this process and this node, and returns what
// its marker says. The store must never be opened by two processes, nor under
// another site's name: its events would change their origin.
func claim(dir string, m marker) (found marker, release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return found, nil, dataError(err)
	}
	release, err = lockDir(dir)
	if err != nil {
		return found, nil, err
	}
	found, err = checkMarker(filepath.Join(dir, markerFile), m)
	if err != nil {
		return found, nil, errors.Join(dataError(err), release())
	}
	return found, release, nil
}

// lockDir takes a data directory for this process.
func lockDir(dir string) (release func() error, err error) {
	lock, err := lockPath(filepath.Join(dir, lockFile))
	if errors.Is(err, errLocked) {
		return nil, dataError(fmt.Errorf("%s is in use by another process", dir))
	}
	if err != nil {
		return nil, dataError(err)
	}
	return lock.Close, nil
}

func dataError(err error) error {
	return fmt.Errorf("open data directory: %w", conf.Field("data", err.Error()))
}

// checkMarker compares the marker with the node, or writes it into a new directory.
func checkMarker(path string, m marker) (marker, error) {
	old, err := readMarker(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return m, m.write(path)
	case err != nil:
		return old, err
	case old.Site != m.Site || old.Node != m.Node:
		return old, fmt.Errorf("%s belongs to node %s of site %s, not to node %s of site %s: set node and site to these, or another directory",
			filepath.Dir(path), old.Node, old.Site, m.Node, m.Site)
	case m.Cluster && !old.Cluster:
		return old, fmt.Errorf(`%s was made with one node, the configuration has several nodes (mesh.cluster.size): run "weft mesh grow" with this configuration first`,
			filepath.Dir(path))
	case old.Cluster != m.Cluster:
		return old, fmt.Errorf("%s was made with several nodes, the configuration has one node: a site cannot shrink to one (mesh.cluster.size)",
			filepath.Dir(path))
	}
	return old, nil
}

func readMarker(path string) (marker, error) {
	var m marker
	raw, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return m, nil
}

func (m marker) write(path string) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return writeWhole(path, append(raw, '\n'))
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
		return err
	}
	return growth.SyncDir(filepath.Dir(path))
}

var errLocked = errors.New("locked")
