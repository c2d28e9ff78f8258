package probe

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// A judge that is closed is gone from the cgroup although somebody else has a
// descriptor of its link still, as a child has between its fork and its exec.
func TestCloseDetaches(t *testing.T) {
	g := newGround(t)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	defer prog.Close()
	l, err := attachCgroup(g.leaf, cgroupHook{attach: ebpf.AttachCGroupInet4Connect, prog: prog})
	must(t, err)
	id, err := l.Info()
	must(t, err)
	other, err := link.NewFromID(id.ID)
	must(t, err)
	defer other.Close()
	attached := func() bool {
		got, err := link.QueryPrograms(link.QueryOptions{Target: int(g.leaf.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
		must(t, err)
		return slices.ContainsFunc(got.Programs, func(p link.AttachedProgram) bool { return p.ID == id.Program })
	}
	if !attached() {
		t.Fatal("the program is not attached: nothing can be shown")
	}
	must(t, held{Link: l, hook: "connect4", prog: prog}.Close())
	if attached() {
		t.Error("the program is attached after its link was closed")
	}
}
