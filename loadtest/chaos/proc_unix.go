//go:build unix

package chaos

import (
	"os"
	"os/exec"
	"syscall"
)

const supported = true

// Signals of the faults.
const (
	sigKill  = syscall.SIGKILL
	sigTerm  = syscall.SIGTERM
	sigPause = syscall.SIGSTOP
	sigGoOn  = syscall.SIGCONT
)

// send signals the process group of a node.
func send(p *os.Process, s syscall.Signal) error { return syscall.Kill(-p.Pid, s) }

// guard puts a child in a group of its own, and has it killed when this process
// dies, where the system can do that.
func guard(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	mortal(cmd.SysProcAttr)
}
