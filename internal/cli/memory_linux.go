package cli

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// dropBinary takes the pages of the binary out of the process that only its start
// needed: parsing, package initialisation and what lies beside them, since Linux
// maps 16 pages for each one that is touched. They stay in the page cache, so a
// page that is needed again costs a minor fault. Best effort: without it the node
// only looks larger.
func dropBinary() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		// Address, permissions, offset, device, inode, path. What can be written
		// holds the process's own state.
		f := strings.Fields(line)
		if len(f) != 6 || f[5] != exe || strings.Contains(f[1], "w") {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err == nil {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED)
		}
	}
}
