package chaos

import (
	"fmt"
	"syscall"
)

const mountFlags = syscall.MS_NOSUID | syscall.MS_NODEV

// mount puts a file system in memory at the volume's directory, for this user.
func (v *volume) mount() error {
	return syscall.Mount("weft-chaos", v.dir, "tmpfs", mountFlags, fmt.Sprintf("size=%d,mode=0700", v.bytes))
}

// resize gives the mounted volume another size, which must hold what is there.
func (v *volume) resize(bytes int64) error {
	return syscall.Mount("weft-chaos", v.dir, "tmpfs", mountFlags|syscall.MS_REMOUNT, fmt.Sprintf("size=%d", bytes))
}

// used is how much the volume holds.
func (v *volume) used() (int64, error) {
	var fs syscall.Statfs_t
	err := syscall.Statfs(v.dir, &fs)
	return int64(fs.Blocks-fs.Bfree) * fs.Bsize, err
}

// unmount drops it with all that it holds, also while a process still has it open.
func (v *volume) unmount() error { return syscall.Unmount(v.dir, syscall.MNT_DETACH) }
