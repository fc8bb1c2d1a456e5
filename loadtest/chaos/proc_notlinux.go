//go:build unix && !linux

package chaos

import "syscall"

func mortal(*syscall.SysProcAttr) {}
