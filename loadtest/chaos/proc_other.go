//go:build !unix

package chaos

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// Without signals nodes cannot be paused, or stopped in good order.
const supported = false

const (
	sigKill = syscall.Signal(iota + 1)
	sigTerm
	sigPause
	sigGoOn
)

func send(*os.Process, syscall.Signal) error { return errors.ErrUnsupported }

func guard(*exec.Cmd) {}
