package kernel

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Outcome is what became of a trial.
type Outcome string

// The outcomes.
const (
	// Works: it loads and attaches.
	Works Outcome = "works"
	// Lacks: this kernel has no such thing.
	Lacks Outcome = "lacks"
	// Fails: it should work, and does not.
	Fails Outcome = "fails"
)

// Trial is what became of one program or feature on this kernel.
type Trial struct {
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	// Reason is why it does not work, in one line.
	Reason string `json:"reason,omitempty"`
	// Hook is where a program belongs, for example "cgroup/connect4".
	Hook string `json:"hook,omitempty"`
	// Needs are the features, by name, without which a program may be refused.
	Needs []string `json:"needs,omitempty"`
	// Instructions is how many instructions the verifier processed to prove the
	// program, 0 where unknown.
	Instructions int `json:"instructions,omitempty"`
	// Log is the end of what the verifier said of a program that it refused.
	Log []string `json:"log,omitempty"`
}

// TryFeatures tries features by name.
func TryFeatures(features []Feature) []Trial {
	var trials []Trial
	for _, f := range features {
		t := Trial{Name: f.Name}
		t.conclude(f.Probe())
		trials = append(trials, t)
	}
	return trials
}

// TryPrograms loads each program of a collection alone and attaches it for a
// moment on a ground made for that. An error is one of the ground, or of the maps
// that the programs share.
func TryPrograms(spec *ebpf.CollectionSpec) (_ []Trial, err error) {
	g, err := NewGround()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	var names []string
	for name := range spec.Programs {
		names = append(names, name)
	}
	slices.Sort(names)
	var trials []Trial
	for _, name := range names {
		trials = append(trials, tryProgram(spec, name, g))
	}
	return trials, nil
}

func tryProgram(all *ebpf.CollectionSpec, name string, g *Ground) Trial {
	spec := all.Copy()
	for other := range all.Programs {
		if other != name {
			delete(spec.Programs, other)
		}
	}
	p := spec.Programs[name]
	t := Trial{Name: name, Hook: p.SectionName, Needs: needs(p)}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}, Cache: types,
	})
	if err != nil {
		t.conclude(fmt.Errorf("load: %w", err))
		return t
	}
	defer coll.Close()
	prog := coll.Programs[name]
	t.Instructions = processed(prog)
	l, err := g.Attach(prog, p)
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		err = fmt.Errorf("attach: %w", err)
	}
	t.conclude(err)
	return t
}

// conclude fills in what an error says.
func (t *Trial) conclude(err error) {
	switch {
	case err == nil:
		t.Outcome = Works
		return
	case Missing(err):
		t.Outcome = Lacks
	default:
		t.Outcome = Fails
	}
	t.Reason = Innermost(err)
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		const kept = 12
		t.Log = verifier.Log[max(0, len(verifier.Log)-kept):]
		t.Reason = fmt.Sprintf("the verifier refuses it (%v): %s", verifier.Cause, complaint(verifier.Log))
	}
}

// complaint is the verifier's last word before its statistics, and before the line of
// source that it is about.
func complaint(log []string) string {
	for _, line := range slices.Backward(log) {
		other := slices.ContainsFunc([]string{"processed ", "verification time ", "stack depth ", "subprog ", ";"}, func(s string) bool {
			return strings.HasPrefix(line, s)
		})
		if !other {
			return line
		}
	}
	return ""
}

// Innermost is the text of the last error of a chain: the loader adds a hint
// about MEMLOCK to every EPERM, which misleads.
func Innermost(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		err = inner
	}
}

var processedLine = regexp.MustCompile(`processed (\d+) insns`)

// processed asks the kernel (Linux 5.16), or else its verifier's own summary.
func processed(p *ebpf.Program) int {
	if info, err := p.Info(); err == nil {
		if n, ok := info.VerifiedInstructions(); ok {
			return int(n)
		}
	}
	m := processedLine.FindStringSubmatch(p.VerifierLog)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1]) // digits, as the expression says
	return n
}

// hookNeeds maps where a program belongs to the feature without which it cannot
// be there.
var hookNeeds = map[ebpf.AttachType]Feature{
	ebpf.AttachCGroupInet4Connect:     CgroupConnect,
	ebpf.AttachCGroupInet6Connect:     CgroupConnect,
	ebpf.AttachCgroupInet4GetPeername: CgroupGetpeername,
	ebpf.AttachCgroupInet6GetPeername: CgroupGetpeername,
	ebpf.AttachCgroupInetSockRelease:  CgroupSockRelease,
	ebpf.AttachCGroupUDP4Sendmsg:      CgroupSendmsg,
	ebpf.AttachCGroupUDP6Sendmsg:      CgroupSendmsg,
	ebpf.AttachCGroupUDP4Recvmsg:      CgroupRecvmsg,
	ebpf.AttachCGroupUDP6Recvmsg:      CgroupRecvmsg,
	ebpf.AttachCGroupSockOps:          CgroupSockOps,
	ebpf.AttachCGroupGetsockopt:       CgroupSockopt,
	ebpf.AttachSkMsgVerdict:           SockMsg,
	ebpf.AttachTraceFEntry:            Fentry,
	ebpf.AttachTraceFExit:             Fentry,
	ebpf.AttachTraceRawTp:             TpBTF,
	ebpf.AttachTraceIter:              SockDestroy,
	ebpf.AttachTraceKprobeMulti:       KprobeMulti,
	ebpf.AttachTCXIngress:             TCX,
	ebpf.AttachTCXEgress:              TCX,
}

func needs(p *ebpf.ProgramSpec) []string {
	var names []string
	switch f, ok := hookNeeds[p.AttachType]; {
	case ok && p.AttachType == ebpf.AttachCGroupSockOps: // ours writes options, in a known namespace
		names = append(names, f.Name, HeaderOptions.Name, NetnsCookies.Name)
	case ok:
		names = append(names, f.Name)
	case p.Type == ebpf.Kprobe:
		names = append(names, Kprobe.Name)
	case p.Type == ebpf.RawTracepoint:
		names = append(names, RawTracepoint.Name)
	case p.Type == ebpf.TracePoint && strings.HasPrefix(p.AttachTo, "syscalls/"):
		names = append(names, SyscallTracepoint.Name)
	case p.Type == ebpf.TracePoint:
		names = append(names, Tracepoint.Name)
	case p.Type == ebpf.SchedCLS:
		names = append(names, Clsact.Name)
	}
	if needsBTF(p) {
		names = append(names, BTF.Name)
	}
	return names
}

// needsBTF: it has a relocation against the kernel's types, or calls a kfunc.
func needsBTF(p *ebpf.ProgramSpec) bool {
	return slices.ContainsFunc(p.Instructions, func(i asm.Instruction) bool {
		return btf.CORERelocationMetadata(&i) != nil || i.IsKfuncCall()
	})
}
