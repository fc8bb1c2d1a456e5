package chaos

import "syscall"

func mortal(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
