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
		return os.WriteFile(path, append(raw, '\n'), 0o600)
	}
	if err != nil {
		return err
	}
	var old marker
	if err := json.Unmarshal(raw, &old); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	if old != m {
		return fmt.Errorf("%s belongs to node %s of site %s, not to node %s of site %s",
			filepath.Dir(path), old.Node, old.Site, m.Node, m.Site)
	}
	return nil
}

var errLocked = errors.New("locked")
