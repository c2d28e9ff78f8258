package main

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// control does to the machine what the host's controls ask for. It returns only
// when that was not possible.
func control(what string) error {
	switch what {
	case guest.Panic:
		// Documentation/admin-guide/sysrq.rst: crash the system.
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			return fmt.Errorf("crash the kernel: %w", err)
		}
	case guest.Hang:
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGHUP) // which nobody sends
		<-stop
	case guest.PowerOff:
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
			return fmt.Errorf("power off: %w", err)
		}
	}
	return fmt.Errorf("control %q: nothing happened", what)
}
