//go:build linux || darwin

package mesh

import "syscall"

// diskOf reads the file system of a directory; nil if it cannot be read.
func diskOf(dir string) *Disk {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return nil
	}
	size := uint64(fs.Bsize)
	return &Disk{Free: fs.Bavail * size, Total: fs.Blocks * size}
}
