package mesh

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// memoryDir is the tmpfs that Linux systems have.
const memoryDir = "/dev/shm"

// staging puts the server's staging area for atomic batches on a memory file
// system. The server stages each batch in a store of its own before it commits
// it to the stream, which costs several synced writes and directory changes;
// the commit itself is synced in the stream before it is acknowledged either
// way. A process that dies leaves the area behind for the server's recovery;
// after a power loss in the middle of a commit some of its unacknowledged
// messages may be in the stream. The server removes the link to the area when
// it has recovered, so each start makes a new one.
type staging struct {
	link   string // the server's directory for batches
	prefix string // of the areas of this site
	old    string // the area of a process that died, for the server's recovery
	own    string
	full   bool // the memory file system was, so own is left
}

// stagingRoom is what the memory file system must have free, in bytes: batches of
// 6 MiB, of publishes and of links, one being committed and the next one sent.
const stagingRoom = 24 << 20

// newStaging notes the area that an earlier process left, before the server
// recovers from it.
func newStaging(dir, site string) *staging {
	s := &staging{
		link:   filepath.Join(dir, storeDir, "jetstream", account, "streams", eventsStream, "batches"),
		prefix: filepath.Join(memoryDir, "weft-"+site+"-"),
	}
	if old, err := os.Readlink(s.link); err == nil && strings.HasPrefix(old, s.prefix) {
		s.old = filepath.Clean(old)
	}
	return s
}

// make links a new area in, when the server has recovered and nothing is
// published yet.
func (s *staging) make() error {
	if s.old != "" {
		_ = os.RemoveAll(s.old) // what stays is small and in memory
	}
	if _, err := os.Stat(filepath.Dir(s.link)); err != nil {
		return fmt.Errorf("find the stream's directory: %w", err)
	}
	if now := diskOf(memoryDir); now != nil && now.Free < stagingRoom {
		return fmt.Errorf("make staging area: %s has %s left", memoryDir, sizeOf(now.Free))
	}
	area, err := os.MkdirTemp(memoryDir, filepath.Base(s.prefix)) // for this user alone
	if err != nil {
		return fmt.Errorf("make staging area: %w", err)
	}
	s.own = area
	if err := os.RemoveAll(s.link); err != nil {
		return fmt.Errorf("clear staging area: %w", err)
	}
	if err := os.Symlink(area, s.link); err != nil {
		return fmt.Errorf("link staging area: %w", err)
	}
	return nil
}

// tight tells whether an area in use is about to have no space.
func (s *staging) tight() bool {
	if s.own == "" || s.full {
		return false
	}
	now := diskOf(s.own)
	return now != nil && now.Free < stagingRoom
}

// renew links a new area in after the server has recovered while this process
// went on. What it stages on disk since then stays there.
func (s *staging) renew() error {
	if s.own == "" || s.full {
		return nil
	}
	was := s.own
	area, err := os.MkdirTemp(memoryDir, filepath.Base(s.prefix))
	if err != nil {
		return fmt.Errorf("make staging area: %w", err)
	}
	s.own = area
	_ = os.Remove(s.link) // what is left of the old link; a directory in use stays
	if err := os.Symlink(area, s.link); err != nil {
		err = fmt.Errorf("link staging area: %w", err)
		return errors.Join(err, os.RemoveAll(area), os.RemoveAll(was))
	}
	return os.RemoveAll(was)
}

// remove clears the area when the server has stopped.
func (s *staging) remove() {
	if s.own != "" {
		_ = os.RemoveAll(s.own)
	}
}
