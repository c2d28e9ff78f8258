package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// What the engine and the judge are built on, each found by loading and
// attaching a program of two instructions. Since is what kernel documentation
// and history say; docs/compatibility.md has what was seen.
var (
	// CgroupConnect is a cgroup program at connect(), attached by a link.
	CgroupConnect = hookFeature("cgroup connect", "5.7", ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
	})
	// CgroupSendmsg is the same for datagrams.
	CgroupSendmsg = hookFeature("cgroup sendmsg", "5.7", ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupUDP4Sendmsg,
	})
	// CgroupRecvmsg lets the reply come from the asked address.
	CgroupRecvmsg = hookFeature("cgroup recvmsg", "5.7", ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupUDP4Recvmsg,
	})
	// CgroupGetpeername lets getpeername answer the asked address.
	CgroupGetpeername = hookFeature("cgroup getpeername", "5.8", ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCgroupInet4GetPeername,
	})
	// CgroupSockRelease runs when an application lets go of a socket.
	CgroupSockRelease = hookFeature("cgroup sock_release", "5.9", ebpf.ProgramSpec{
		Type: ebpf.CGroupSock, AttachType: ebpf.AttachCgroupInetSockRelease,
	})
	// CgroupSockOps follows TCP connections of a cgroup.
	CgroupSockOps = hookFeature("cgroup sockops", "5.7", ebpf.ProgramSpec{
		Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps,
	})
	// CgroupSockopt is a program at getsockopt().
	CgroupSockopt = hookFeature("cgroup getsockopt", "5.7", ebpf.ProgramSpec{
		Type: ebpf.CGroupSockopt, AttachType: ebpf.AttachCGroupGetsockopt,
	})
	// NetnsCookies is the number by which programs and processes both know a
	// network namespace.
	NetnsCookies = Feature{Name: "netns cookie", Since: "5.14", Probe: probeNetnsCookie}
	// SetRetval lets a cgroup program choose the error that the application sees.
	SetRetval = helperFeature("set_retval", "5.18", ebpf.CGroupSockAddr, asm.FnSetRetval)
	// HeaderOptions lets a sockops program write TCP options.
	HeaderOptions = helperFeature("header options", "5.10", ebpf.SockOps, asm.FnStoreHdrOpt)
	// SockMsg lets a program put bytes in front of what a socket sends.
	SockMsg = helperFeature("sk_msg", "5.0", ebpf.SkMsg, asm.FnMsgPushData)
	// Kprobe is a program at any function of the kernel.
	Kprobe = hookFeature("kprobe", "", ebpf.ProgramSpec{Type: ebpf.Kprobe, AttachTo: "tcp_v4_connect"})
	// KprobeMulti is one program at many functions by one link.
	KprobeMulti = hookFeature("kprobe.multi", "5.18", ebpf.ProgramSpec{
		Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceKprobeMulti, AttachTo: "tcp_v4_connect",
	})
	// Fentry is a program at a function's entry, with typed arguments.
	Fentry = hookFeature("fentry", "5.5", ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: "tcp_v4_connect",
	})
	// TpBTF is a tracepoint with typed arguments.
	TpBTF = hookFeature("tp_btf", "5.5", ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "inet_sock_set_state",
	})
	// RawTracepoint is a tracepoint with the arguments as they are.
	RawTracepoint = hookFeature("raw_tp", "", ebpf.ProgramSpec{Type: ebpf.RawTracepoint, AttachTo: "inet_sock_set_state"})
	// Tracepoint is a tracepoint of tracefs.
	Tracepoint = hookFeature("tracepoint", "", ebpf.ProgramSpec{Type: ebpf.TracePoint, AttachTo: "sock/inet_sock_set_state"})
	// SyscallTracepoint is one at a system call (CONFIG_FTRACE_SYSCALLS).
	SyscallTracepoint = hookFeature("syscall tracepoint", "", ebpf.ProgramSpec{Type: ebpf.TracePoint, AttachTo: "syscalls/sys_enter_connect"})
	// TCX is a program at an interface, attached by a link.
	TCX = hookFeature("tcx", "6.6", ebpf.ProgramSpec{Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress})
	// Clsact is a program at an interface, as a traffic control filter.
	Clsact = hookFeature("clsact", "4.5", ebpf.ProgramSpec{Type: ebpf.SchedCLS})
	// PacketHook is a program at an interface in either form: without it nobody
	// sees packets.
	PacketHook = Feature{Name: "tcx or clsact", Probe: probePacketHook}
	// JIT is the kernel's compiler for BPF programs, switched on. Without it they
	// are interpreted: slower, and some are refused.
	JIT = Feature{Name: "JIT", Probe: probeJIT}
	// MPTCP is the socket protocol of RFC 8684.
	MPTCP = Feature{Name: "MPTCP", Since: "5.6", Probe: probeMPTCP}
	// SockDestroy is the kfunc bpf_sock_destroy, which ends sockets.
	SockDestroy = Feature{Name: "sock_destroy", Since: "6.5", Probe: probeSockDestroy}
)

// Features are all of them, in the order in which they are shown.
func Features() []Feature {
	return []Feature{
		Root, BPF, Cgroup2Mount, BTF, JIT,
		CgroupConnect, CgroupGetpeername, CgroupSockRelease, CgroupSendmsg, CgroupRecvmsg,
		CgroupSockOps, CgroupSockopt, NetnsCookies, SetRetval, HeaderOptions, SockMsg, SockDestroy,
		SockDiag, EndSockets,
		KprobeMulti, Kprobe, Fentry, TpBTF, RawTracepoint, Tracepoint, SyscallTracepoint,
		TCX, Clsact, MPTCP,
	}
}

// hookFeature is a hook, tried by a program that lets everything pass.
func hookFeature(name, since string, spec ebpf.ProgramSpec) Feature {
	return Feature{Name: name, Since: since, Probe: func() error {
		spec := spec
		spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, pass(spec.Type)), asm.Return()}
		spec.License = "Dual BSD/GPL"
		const try = "try"
		coll, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{
			Programs: map[string]*ebpf.ProgramSpec{try: &spec},
		}, ebpf.CollectionOptions{Cache: types})
		if err != nil {
			return unknown(err)
		}
		defer coll.Close()
		g, err := NewGround()
		if err != nil {
			return err
		}
		l, err := g.Attach(coll.Programs[try], &spec)
		if err == nil {
			err = l.Close()
		}
		return errors.Join(err, g.Close())
	}}
}

// unknown tells a kernel that does not know a program's type or hook from one that finds
// fault with the program: the former says no more than EINVAL, before its verifier, which
// would name the fault, has read an instruction.
func unknown(err error) error {
	var verifier *ebpf.VerifierError
	if !errors.Is(err, unix.EINVAL) || errors.As(err, &verifier) && len(verifier.Log) > 0 {
		return err
	}
	return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
}

// pass is what a program returns to let everything go on as without it.
func pass(t ebpf.ProgramType) int32 {
	switch t {
	case ebpf.CGroupSockAddr, ebpf.CGroupSock, ebpf.CGroupSockopt, ebpf.SockOps:
		return 1
	case ebpf.SchedCLS:
		return -1 // TC_ACT_UNSPEC
	}
	return 0
}

func helperFeature(name, since string, t ebpf.ProgramType, helper asm.BuiltinFunc) Feature {
	return Feature{Name: name, Since: since, Probe: func() error {
		return HaveHelper(t, helper)
	}}
}

// HaveHelper is [features.HaveProgramHelper], and takes a verifier that complains of
// the trial's arguments for one that knows the helper, whatever its error number is
// (Linux 7.3: EINVAL for bpf_set_retval).
func HaveHelper(t ebpf.ProgramType, helper asm.BuiltinFunc) error {
	err := features.HaveProgramHelper(t, helper)
	if err == nil || errors.Is(err, ebpf.ErrNotSupported) || !knowsHelper(err) {
		return err
	}
	return nil
}

// knowsHelper: the verifier has read the call, and found another fault than that it
// may not be made.
func knowsHelper(err error) bool {
	var verifier *ebpf.VerifierError
	if !errors.As(err, &verifier) {
		return false
	}
	log := strings.Join(verifier.Log, "\n")
	return strings.Contains(log, ") call ") &&
		!slices.ContainsFunc([]string{"unknown func", "invalid func", "cannot use helper"}, func(s string) bool {
			return strings.Contains(log, s)
		})
}

func probeNetnsCookie() error {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer ns.Close()
	_, err = NetnsCookie(ns)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	return err
}

func probePacketHook() error {
	if err := TCX.Probe(); err == nil || !Missing(err) {
		return err
	}
	return Clsact.Probe()
}

func probeJIT() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	if size, err := info.JitedSize(); err == nil && size > 0 {
		return nil
	}
	return fmt.Errorf("%w: programs are interpreted (net.core.bpf_jit_enable, CONFIG_BPF_JIT)", ebpf.ErrNotSupported)
}

func probeMPTCP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
		return fmt.Errorf("open socket: %w: %w", ebpf.ErrNotSupported, err)
	}
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	return unix.Close(fd)
}

func probeSockDestroy() error {
	spec, err := types.Kernel()
	if err != nil {
		return err
	}
	var f *btf.Func
	err = spec.TypeByName("bpf_sock_destroy", &f)
	if errors.Is(err, btf.ErrNotFound) {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	return err
}
