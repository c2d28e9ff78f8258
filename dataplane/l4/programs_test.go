package l4

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/duomesh/duomesh/internal/kernel"
)

// optional are the programs that need the kernel's BTF, each of which the engine
// can do without.
var optional = []string{meshProgMeshEndUdp, meshProgMeshPrepare}

// The engine loads where the kernel has no BTF: no program asks for the layout
// of a kernel type, nor for a kernel function, but for the optional ones.
func TestProgramsNeedNoKernelBTF(t *testing.T) {
	spec, err := loadMesh()
	must(t, err)
	if len(spec.Programs) == 0 {
		t.Fatal("no programs")
	}
	for _, name := range optional {
		delete(spec.Programs, name)
	}
	for name, prog := range spec.Programs {
		for i := range prog.Instructions {
			ins := &prog.Instructions[i]
			if relo := btf.CORERelocationMetadata(ins); relo != nil {
				t.Errorf("%s, instruction %d: %v", name, i, relo)
			}
			if ins.IsKfuncCall() {
				t.Errorf("%s, instruction %d calls a kernel function", name, i)
			}
		}
	}
}

// Every combination of the constants loads, and each constant that is off leaves
// its helpers out of the loaded program: an older kernel need not have them.
func TestConstantsExcludeHelpers(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.BPF)
	const keep, places, retval = 1, 2, 4
	var calls [8]int
	for i := range calls {
		spec, err := loadMesh()
		must(t, err)
		for _, name := range optional {
			delete(spec.Programs, name)
		}
		must(t, spec.Variables[meshVarCfgKeepPeer].Set(i&keep > 0))
		must(t, spec.Variables[meshVarCfgPlaces].Set(i&places > 0))
		must(t, spec.Variables[meshVarCfgSetRetval].Set(i&retval > 0))
		c, err := ebpf.NewCollection(spec)
		if err != nil {
			t.Fatalf("constants %03b: %v", i, err)
		}
		calls[i] = helperCalls(t, c.Programs[meshProgMeshConnect4])
		c.Close()
	}
	for _, constant := range []int{keep, places, retval} {
		if all, without := calls[7], calls[7&^constant]; without >= all {
			t.Errorf("%d calls with all constants, %d without %03b", all, without, constant)
		}
	}
	// One tells MPTCP from TCP where a waypoint wants a header.
	if calls[retval|places] != calls[retval]+1 {
		t.Error("places matter although nothing is kept")
	}
}

// helperCalls counts the calls that are left after the verifier has dropped dead
// code.
func helperCalls(tb testing.TB, prog *ebpf.Program) int {
	tb.Helper()
	info, err := prog.Info()
	must(tb, err)
	all, err := info.Instructions()
	must(tb, err)
	n := 0
	for _, ins := range all {
		if ins.OpCode.JumpOp() == asm.Call {
			n++
		}
	}
	return n
}

// verifiedAtMost is what the verifier may have to look at for one program: small
// enough for every kernel, and so that Open takes no time.
const verifiedAtMost = 12_000

func TestVerifierCost(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.BPF, kernel.Cgroup2Mount)
	trials, err := Trials()
	must(t, err)
	for _, p := range trials {
		if p.Outcome == kernel.Fails {
			t.Errorf("%s: %s", p.Name, p.Reason)
		}
		if p.Instructions > verifiedAtMost {
			t.Errorf("%s: the verifier processes %d instructions, at most %d are wanted", p.Name, p.Instructions, verifiedAtMost)
		}
		t.Logf("%s: %d instructions", p.Name, p.Instructions)
	}
}
