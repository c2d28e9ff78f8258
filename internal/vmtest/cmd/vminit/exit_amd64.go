package main

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// outb writes a byte to an I/O port. The thread must have called iopl(3).
func outb(port uint16, value uint8)

// exit ends the machine with an exit code that its host can read. Where the
// kernel does not let a process reach the port, it powers off, which the host
// takes for a failure.
func exit(code uint8) {
	runtime.LockOSThread()
	unix.Sync()
	const allPorts = 3
	if err := unix.Iopl(allPorts); err == nil {
		outb(guest.ExitPort, code)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
