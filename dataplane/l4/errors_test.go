package l4

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

func TestExplain(t *testing.T) {
	misleading := fmt.Errorf("map create: %w (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", unix.EPERM)
	got := explain(misleading)
	if strings.Contains(got.Error(), "MEMLOCK") || !strings.Contains(got.Error(), "CAP_BPF") {
		t.Errorf("got %q", got)
	}
	if !kernel.Missing(got) || !errors.Is(got, unix.EPERM) {
		t.Errorf("%v is not known as EPERM any more", got)
	}
	if got := explain(fmt.Errorf("x: %w", ebpf.ErrNotSupported)); !errors.Is(got, ebpf.ErrNotSupported) {
		t.Errorf("the chain is broken: %v", got)
	}
	other := errors.New("other")
	if !errors.Is(explain(other), other) || explain(nil) != nil {
		t.Error("an error without an explanation was changed")
	}
}

// What says that the kernel lacks something is told with the kernel's release; what has
// failed otherwise, as for want of rights or memory, says nothing of the kernel.
func TestUnsupportedKernel(t *testing.T) {
	for _, cause := range []error{ebpf.ErrNotSupported, unix.ENOSYS} {
		err := unsupportedKernel(fmt.Errorf("attach: %w", cause), needed(Options{}))
		var k KernelError
		if !errors.As(err, &k) || k.Release == "" || !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "Linux "+k.Release+" cannot carry the engine") {
			t.Errorf("%v: %v", cause, err)
		}
		if kernel.Root.Probe() == nil && kernel.CgroupConnect.Probe() == nil && k.Lacks == kernel.CgroupConnect.Name {
			t.Errorf("a kernel that has it is said to lack %s", k.Lacks)
		}
	}
	for _, other := range []error{unix.EPERM, unix.ENOMEM, errors.New("other")} {
		if got := unsupportedKernel(other, needed(Options{})); errors.As(got, new(KernelError)) || !errors.Is(got, other) {
			t.Errorf("%v was made %v", other, got)
		}
	}
	k := KernelError{Release: "4.19.0", Lacks: "cgroup connect", Since: "5.7", Err: errors.New("attach")}
	if want := "Linux 4.19.0 cannot carry the engine: it has no cgroup connect, which Linux has since 5.7: attach"; k.Error() != want {
		t.Errorf("got %q", k.Error())
	}
}

// A kernel that does not know a hook refuses the programs with no more than EINVAL: it is
// not supported where a needed feature is missing, and that is named. Where none is, and
// where the probe itself fails otherwise, EINVAL stays what it is.
func TestUnsupportedKernelRefuses(t *testing.T) {
	_, unknown := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: 250, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if errors.Is(unknown, unix.EPERM) {
		t.Skipf("NOT RUN: %v", unknown)
	}
	feature := func(name string, err error) kernel.Feature {
		return kernel.Feature{Name: name, Since: "9.9", Probe: func() error { return err }}
	}
	there, missing := feature("there", nil), feature("missing", fmt.Errorf("%w: %w", ebpf.ErrNotSupported, unix.EINVAL))
	for _, cause := range []error{unknown, unix.EACCES, unix.E2BIG} {
		refused := fmt.Errorf("load mesh programs: %w", explain(cause))
		var k KernelError
		if err := unsupportedKernel(refused, []kernel.Feature{there, missing, feature("younger", unix.ENOSYS)}); !errors.As(err, &k) ||
			k.Lacks != "missing" || k.Since != "9.9" || k.Release == "" || !errors.Is(err, cause) {
			t.Errorf("%v: %v", cause, err)
		}
		for _, needs := range [][]kernel.Feature{nil, {there}, {feature("not permitted", unix.EPERM)}, {feature("broken", unix.EINVAL)}} {
			if got := unsupportedKernel(refused, needs); errors.As(got, &k) || !errors.Is(got, refused) {
				t.Errorf("%v was made %v", refused, got)
			}
		}
	}
}
