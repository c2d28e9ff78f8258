package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// mounts are what a program finds on any Linux machine. The optional ones depend
// on how the kernel was built.
var mounts = []struct {
	dir, fstype string
	optional    bool
}{
	{"/proc", "proc", false},
	{"/sys", "sysfs", false},
	{"/dev", "devtmpfs", false},
	{"/tmp", "tmpfs", false},
	{"/run", "tmpfs", false},
	{"/sys/fs/cgroup", "cgroup2", false},
	{"/sys/fs/bpf", "bpf", false},
	{"/sys/kernel/tracing", "tracefs", true},
	{"/sys/kernel/debug", "debugfs", true},
}

func mountAll() error {
	for _, m := range mounts {
		err := os.MkdirAll(m.dir, 0o755)
		if err == nil {
			err = unix.Mount(m.fstype, m.dir, m.fstype, 0, "")
		}
		if err != nil && !m.optional {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.dir, err)
		}
	}
	return nil
}

func loadModules(names []string) error {
	for _, name := range names {
		f, err := os.Open(guest.ModuleDir + "/" + name)
		if err != nil {
			return fmt.Errorf("load module: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// compilePrograms switches on the compiler for BPF programs, as distributions do.
// A kernel that always compiles, or has no compiler, does not have the switch.
func compilePrograms() error {
	err := os.WriteFile("/proc/sys/net/core/bpf_jit_enable", []byte("1\n"), 0o644)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("switch on the BPF compiler: %w", err)
	}
	return nil
}

// loopbackUp brings up lo of the first network namespace, as any machine has it.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}
