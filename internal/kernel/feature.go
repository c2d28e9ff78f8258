package kernel

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Feature is something that a kernel may lack. Probe tries it and returns nil,
// or why it does not work.
type Feature struct {
	Name string
	// Since is the first kernel release that has it, where it is not older
	// than all that duomesh runs on.
	Since string
	Probe func() error
}

// The features that duomesh asks for by name.
var (
	// Root is the privilege to load programs and make namespaces.
	Root = Feature{Name: "root", Probe: probeRoot}
	// Cgroup2Mount is a mounted cgroup v2 hierarchy.
	Cgroup2Mount = Feature{Name: "cgroup2", Probe: probeCgroup2}
	// BTF is the kernel's own type information, /sys/kernel/btf/vmlinux.
	BTF = Feature{Name: "BTF", Probe: probeBTF}
	// BPF is the system call itself, with the rights to use it.
	BPF = Feature{Name: "BPF", Probe: probeBPF}
)

// Missing reports whether err says that the kernel, or this process in it, has
// no such thing, so that the next way may be tried. Any other error is a fault.
func Missing(err error) bool {
	return errors.Is(err, ebpf.ErrNotSupported) ||
		errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, unix.EPERM) ||
		errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, ErrNoCgroup2)
}

// PromiseEnv lists, with commas, the features that a lane of tests promises:
// there a missing one is a failure, so that nothing turns green by skipping.
const PromiseEnv = "DUOMESH_PROMISE"

func promised(f Feature) bool {
	return slices.Contains(strings.Split(os.Getenv(PromiseEnv), ","), f.Name)
}

// Require ends the test where the kernel lacks a feature: it is shown as NOT RUN
// with the reason, and counted. A promised feature that is missing, and one that
// fails in an unclear way, fail the test.
func Require(tb testing.TB, features ...Feature) {
	tb.Helper()
	for _, f := range features {
		err := f.Probe()
		switch {
		case err == nil:
		case promised(f):
			tb.Fatalf("feature %s is promised (%s): %v", f.Name, PromiseEnv, err)
		case Missing(err):
			tb.Skipf("NOT RUN: %s: %v", f.Name, err)
		default:
			tb.Fatalf("kernel feature %s: %v", f.Name, err)
		}
	}
}

func probeRoot() error {
	if os.Geteuid() != 0 {
		return unix.EPERM
	}
	return nil
}

func probeCgroup2() error {
	_, err := Cgroup2()
	return err
}

func probeBTF() error {
	_, err := types.Kernel()
	return err
}

// types are read once: it takes tens of milliseconds, in an emulated machine a
// second, and what is loaded asks for them again and again.
var types = btf.NewCache()

// Types are the running kernel's own types, for whoever loads programs that need them.
func Types() *btf.Cache { return types }

func probeBPF() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	return m.Close()
}
