package kernel

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// A verifier that complains of arguments knows the helper; one that says so does not.
func TestKnowsHelper(t *testing.T) {
	for text, want := range map[string]bool{
		"0: (85) call bpf_set_retval#187\nR1 is not a scalar":                  true,
		"0: (85) call unknown#999\ninvalid func unknown#999":                   false,
		"0: (85) call bpf_x#1\nprogram of this type cannot use helper bpf_x#1": false,
		"0: (85) call bpf_x#1\nunknown func bpf_x#1":                           false,
		"back-edge from insn 0 to 0":                                           false,
	} {
		err := &ebpf.VerifierError{Cause: errors.New("invalid argument"), Log: []string{text}}
		if knowsHelper(err) != want {
			t.Errorf("%q: %t, want %t", text, !want, want)
		}
	}
	if knowsHelper(errors.New("permission denied")) {
		t.Error("an error without a verifier's log")
	}
}

// A hook and a type of program that the kernel does not know are missing, as on one that is
// older than they are; one that it knows is not.
func TestUnknownHook(t *testing.T) {
	Require(t, Root, BPF, Cgroup2Mount)
	const none = 250
	for what, spec := range map[string]ebpf.ProgramSpec{
		"hook": {Type: ebpf.CGroupSockAddr, AttachType: none}, "type": {Type: none},
	} {
		if err := hookFeature(what, "9.9", spec).Probe(); !errors.Is(err, ebpf.ErrNotSupported) || !errors.Is(err, unix.EINVAL) || !Missing(err) {
			t.Errorf("an unknown %s: %v", what, err)
		}
	}
	if err := CgroupConnect.Probe(); Missing(err) {
		t.Errorf("a known hook: %v", err)
	}
}

// What the verifier finds in a program says nothing of what the kernel knows.
func TestUnknownIsNotAFault(t *testing.T) {
	_, fault := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 7), asm.Return()}, // it may return 0 or 1
	})
	if errors.Is(fault, unix.EPERM) {
		t.Skipf("NOT RUN: %v", fault)
	}
	for _, err := range []error{fault, fmt.Errorf("load: %w", unix.EPERM), errors.New("other")} {
		if got := unknown(err); !errors.Is(got, err) || errors.Is(got, ebpf.ErrNotSupported) {
			t.Errorf("%v was made %v", err, got)
		}
	}
}
