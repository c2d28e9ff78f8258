package l4

import (
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// The stages of a slow program, in its map.
const (
	started = 1
	ended   = 2
)

// slowConnect4 attaches a program that writes started, works for some ten
// milliseconds, and writes ended.
func slowConnect4(tb testing.TB, cgroup *os.File) *ebpf.Map {
	tb.Helper()
	if err := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnLoop); errors.Is(err, ebpf.ErrNotSupported) {
		tb.Skipf("NOT RUN: no bpf_loop (Linux 5.17): %v", err)
	}
	stage, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	must(tb, err)
	tb.Cleanup(func() { stage.Close() })
	number := &btf.Int{Name: "long", Size: 8, Encoding: btf.Signed}
	function := func(name string, linkage btf.FuncLinkage) *btf.Func {
		return &btf.Func{Name: name, Linkage: linkage, Type: &btf.FuncProto{
			Return: number, Params: []btf.FuncParam{{Name: "a", Type: number}, {Name: "b", Type: number}},
		}}
	}
	entry := function("slow", btf.GlobalFunc)
	entry.Type.(*btf.FuncProto).Params = []btf.FuncParam{{Name: "ctx", Type: &btf.Pointer{Target: &btf.Void{}}}}
	ins := asm.Instructions{btf.WithFuncMetadata(asm.Mov.Reg(asm.R6, asm.R1), entry).WithSymbol("slow")}
	ins = append(ins, writeStage(stage, started, "loop")...)
	ins = append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("loop"))
	for range 3 {
		ins = append(ins,
			asm.Mov.Imm(asm.R1, 1<<23), // the most that bpf_loop takes
			asm.Instruction{OpCode: asm.LoadImmOp(asm.DWord), Dst: asm.R2, Src: asm.PseudoFunc, Constant: -1}.WithReference("work"),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnLoop.Call(),
		)
	}
	ins = append(ins, writeStage(stage, ended, "out")...)
	ins = append(ins,
		asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
		asm.Return(),
		btf.WithFuncMetadata(asm.Mov.Imm(asm.R0, 0), function("work", btf.StaticFunc)).WithSymbol("work"),
		asm.Return(),
	)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "slow", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
		License: "GPL", Instructions: ins,
	})
	must(tb, err)
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(cgroup.Fd()), Program: prog, Attach: ebpf.AttachCGroupInet4Connect,
	})
	must(tb, err)
	tb.Cleanup(func() { l.Close(); prog.Close() })
	return stage
}

func writeStage(m *ebpf.Map, stage int32, next string) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, next),
		asm.Mov.Imm(asm.R1, stage),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
	}
}

func stageOf(tb testing.TB, m *ebpf.Map) (v uint64) {
	tb.Helper()
	must(tb, m.Lookup(uint32(0), &v))
	return v
}

// A grace period that begins while a program runs ends after the program. The
// control is an update of a plain array, which does not wait.
func TestGraceOutlastsARunningProgram(t *testing.T) {
	kernel.Require(t, kernel.JIT) // an interpreter takes no callbacks, which make the program slow
	n := newNode(t)
	p := n.pod(t, "default/client")
	stage := slowConnect4(t, n.cgroup)
	g, err := newGrace()
	must(t, err)
	defer g.Close()
	plain, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	must(t, err)
	defer plain.Close()

	// during calls f while the program runs, and returns the stages around it.
	during := func(f func() error) (before, after uint64) {
		must(t, stage.Put(uint32(0), uint64(0)))
		done := make(chan answer)
		go func() {
			done <- p.do(t, call{Op: "dial", Domain: v4, Type: unix.SOCK_STREAM, To: addrPort("10.1.0.1:80")})
		}()
		for before == 0 {
			before = stageOf(t, stage)
		}
		must(t, f())
		after = stageOf(t, stage)
		if a := <-done; a.Errno != 0 {
			t.Fatalf("connect: %v", a.Errno)
		}
		return before, after
	}
	// On a busy machine a program may end before the test runs on.
	shown, controls := 0, 0
	for i := 0; i < 100 && (shown < 5 || controls < 5); i++ {
		if _, after := during(func() error { return plain.Put(uint32(0), uint64(1)) }); after == started {
			controls++
		}
		before, after := during(g.wait)
		if after != ended {
			t.Error("the grace period ended before the program")
		}
		if before == started {
			shown++
		}
	}
	if shown < 5 || controls < 5 {
		t.Errorf("%d grace periods began in a run, %d plain updates ended in one: nothing was shown", shown, controls)
	}
}
