package kernel

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

func connect4(name string, ins asm.Instructions) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: name, Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
		SectionName: "cgroup/connect4", License: "GPL", Instructions: ins,
	}
}

// tooComplex counts further than the verifier follows a loop
// (BPF_COMPLEXITY_LIMIT_INSNS is a million).
func tooComplex() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, 0),
		asm.Add.Imm(asm.R0, 1).WithSymbol("again"),
		asm.JLT.Imm(asm.R0, 1_000_000, "again"),
		asm.Mov.Imm(asm.R0, 1), asm.Return(),
	}
}

// wrongContext writes a field of the context that may only be read.
func wrongContext() asm.Instructions {
	const family = 28 // offset of bpf_sock_addr.family
	return asm.Instructions{
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreMem(asm.R1, family, asm.R2, asm.Word),
		asm.Mov.Imm(asm.R0, 1), asm.Return(),
	}
}

// Programs that the verifier refuses are told with its own words, and do not
// keep others from being tried.
func TestTryPrograms(t *testing.T) {
	Require(t, Root, BPF, Cgroup2Mount, CgroupConnect)
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"good":          connect4("good", asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}),
		"too_complex":   connect4("too_complex", tooComplex()),
		"wrong_context": connect4("wrong_context", wrongContext()),
		"nowhere": {
			Name: "nowhere", Type: ebpf.Kprobe, SectionName: "kprobe/no_such_function", License: "GPL",
			AttachTo: "no_such_function_anywhere", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		},
	}}
	trials, err := TryPrograms(spec)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Trial{}
	for _, x := range trials {
		got[x.Name] = x
	}
	if g := got["good"]; g.Outcome != Works || g.Instructions != 2 || !slices.Equal(g.Needs, []string{CgroupConnect.Name}) {
		t.Errorf("good: %+v", g)
	}
	for name, says := range map[string]string{
		"too_complex": "too large", "wrong_context": "invalid bpf_context access",
	} {
		g := got[name]
		if g.Outcome != Fails || !strings.Contains(g.Reason, says) || len(g.Log) == 0 {
			t.Errorf("%s: %+v; want it to fail and the verifier to say %q", name, g, says)
		}
		told, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("broken program %s", told) // the kernel matrix reads it
	}
	if g := got["nowhere"]; g.Outcome != Lacks || !strings.HasPrefix(g.Reason, "attach to function") && !strings.Contains(g.Reason, "no") {
		t.Errorf("a function that does not exist: %+v", g)
	}
}

// The line of source comes after what is wrong with it, the statistics after both.
func TestComplaint(t *testing.T) {
	const wrong = "invalid bpf_context access off=28 size=4"
	log := []string{
		"0: R1=ctx()", wrong, "; ctx->family = 2; @ mesh.bpf.c:159", "verification time 71 usec", "stack depth 0",
		"processed 3 insns (limit 1000000)",
	}
	if got := complaint(log); got != wrong {
		t.Errorf("got %q", got)
	}
	since73 := slices.Insert(slices.Clone(log), 5, "subprog 0 (<unknown>) main insns_self 3 insns_total 3 stack 0")
	if got := complaint(since73); got != wrong {
		t.Errorf("got %q of a log of Linux 7.3", got)
	}
	if got := complaint(nil); got != "" {
		t.Errorf("got %q of no log", got)
	}
}

// What is tried must leave nothing behind, and say the same again.
func TestFeaturesAreTriedTwice(t *testing.T) {
	Require(t, Root, BPF)
	first := TryFeatures(Features())
	second := TryFeatures(Features())
	for i := range first {
		if first[i].Outcome != second[i].Outcome {
			t.Errorf("%s: %s (%s), then %s (%s)", first[i].Name,
				first[i].Outcome, first[i].Reason, second[i].Outcome, second[i].Reason)
		}
		if first[i].Outcome == Fails {
			t.Errorf("%s fails in an unclear way: %s", first[i].Name, first[i].Reason)
		}
	}
}
