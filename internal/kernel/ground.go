package kernel

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Ground is an empty cgroup and an empty network namespace in which programs may
// be attached without harm to anybody. Where cgroup v2 is missing, or cannot be
// written, as in many containers, there is no cgroup, and what needs one says so.
type Ground struct {
	cgroup   *os.File
	noCgroup error
	netns    *os.File
}

var grounds atomic.Int64

// NewGround makes one. The caller closes it.
func NewGround() (*Ground, error) {
	mount, err := groundMount()
	if err != nil {
		return newGround(nil, err)
	}
	return newGround(scratchCgroup(mount))
}

// newGround adds the network namespace to a cgroup, or to why there is none.
func newGround(cgroup *os.File, noCgroup error) (*Ground, error) {
	g := &Ground{cgroup: cgroup}
	if noCgroup != nil {
		g.noCgroup = errors.Join(noCgroup) // for Innermost all of it is the reason
	}
	var err error
	if g.netns, err = NewNetns(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// trialPrefix begins the names of the grounds' cgroups; the process number and a
// count follow.
const trialPrefix = "duomesh-try-"

// scratchCgroup makes a cgroup and locks it (flock), as long as it is open.
func scratchCgroup(mount string) (*os.File, error) {
	if err := sweepGrounds(mount); err != nil {
		return nil, err
	}
	dir := filepath.Join(mount, fmt.Sprintf("%s%d-%d", trialPrefix, os.Getpid(), grounds.Add(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup for a trial: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the cgroup of a trial: %w", err), os.Remove(dir))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the cgroup of a trial: %w", err), f.Close(), os.Remove(dir))
	}
	return f, nil
}

// SweepGrounds removes the cgroups of grounds whose process died before it could.
// Each new ground does so too. Where there is no cgroup v2 there is nothing to do.
func SweepGrounds() error {
	mount, err := groundMount()
	if errors.Is(err, ErrNoCgroup2) {
		return nil
	}
	if err != nil {
		return err
	}
	return sweepGrounds(mount)
}

// groundMount is where cgroup v2 is mounted: in this process's own file system, or
// else in that of the machine. A container on a host of both versions has none.
func groundMount() (string, error) {
	mount, err := Cgroup2()
	if errors.Is(err, ErrNoCgroup2) {
		return HostCgroup2()
	}
	return mount, err
}

func sweepGrounds(mount string) error {
	dirs, err := filepath.Glob(filepath.Join(mount, trialPrefix+"*"))
	if err != nil {
		return fmt.Errorf("list the cgroups of trials: %w", err)
	}
	var errs []error
	for _, dir := range dirs {
		if abandoned(dir) {
			errs = append(errs, removeAbandoned(dir))
		}
	}
	return errors.Join(errs...)
}

// abandoned: its process is gone, and nobody holds its lock. The second matters
// where the process has its number in another PID namespace.
func abandoned(dir string) bool {
	var pid, count int
	if _, err := fmt.Sscanf(filepath.Base(dir), trialPrefix+"%d-%d", &pid, &count); err != nil || pid <= 0 {
		return false // somebody else's
	}
	if !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return false
	}
	f, err := os.Open(dir)
	if err != nil {
		return false // swept by another meanwhile
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// removeAbandoned leaves a cgroup that is in use: no ground's ever is.
func removeAbandoned(dir string) error {
	switch err := unix.Rmdir(dir); {
	case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTEMPTY):
		return nil
	default:
		return fmt.Errorf("remove the cgroup %s of a dead trial: %w", dir, err)
	}
}

// Close removes both.
func (g *Ground) Close() error {
	var errs []error
	if g.cgroup != nil {
		errs = append(errs, g.cgroup.Close(), os.Remove(g.cgroup.Name()))
	}
	if g.netns != nil {
		errs = append(errs, g.netns.Close())
	}
	return errors.Join(errs...)
}

// Attach attaches a program where its spec says that it belongs. The closer
// detaches it. An error that Missing knows says that the kernel has no such hook.
func (g *Ground) Attach(prog *ebpf.Program, spec *ebpf.ProgramSpec) (io.Closer, error) {
	switch spec.Type {
	case ebpf.CGroupSockAddr, ebpf.CGroupSock, ebpf.CGroupSockopt, ebpf.SockOps, ebpf.CGroupSKB:
		if g.cgroup == nil {
			return nil, g.noCgroup
		}
		return link.AttachRawLink(link.RawLinkOptions{
			Target: int(g.cgroup.Fd()), Program: prog, Attach: spec.AttachType,
		})
	case ebpf.Tracing:
		if spec.AttachType == ebpf.AttachTraceIter {
			return link.AttachIter(link.IterOptions{Program: prog})
		}
		return link.AttachTracing(link.TracingOptions{Program: prog})
	case ebpf.RawTracepoint:
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: spec.AttachTo, Program: prog})
	case ebpf.TracePoint:
		group, name, _ := strings.Cut(spec.AttachTo, "/")
		return AttachTracepoint(group, name, prog)
	case ebpf.Kprobe:
		return attachKprobe(prog, spec)
	case ebpf.SchedCLS:
		return g.attachInterface(prog, spec)
	case ebpf.SkMsg:
		return attachToSockets(prog, spec)
	}
	return nil, fmt.Errorf("attach a program of type %s: %w", spec.Type, errors.ErrUnsupported)
}

func attachKprobe(prog *ebpf.Program, spec *ebpf.ProgramSpec) (io.Closer, error) {
	atReturn := strings.HasPrefix(spec.SectionName, "kret")
	if spec.AttachType != ebpf.AttachTraceKprobeMulti {
		return AttachKprobe(spec.AttachTo, prog, atReturn, 0)
	}
	o := link.KprobeMultiOptions{Symbols: []string{spec.AttachTo}}
	if atReturn {
		return link.KretprobeMulti(prog, o)
	}
	return link.KprobeMulti(prog, o)
}

// attachToSockets attaches a program to a collection of sockets of its own, which has
// none. It goes with the collection.
func attachToSockets(prog *ebpf.Program, spec *ebpf.ProgramSpec) (io.Closer, error) {
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockHash, KeySize: 8, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: sockets.FD(), Program: prog, Attach: spec.AttachType,
	}); err != nil {
		return nil, errors.Join(err, sockets.Close())
	}
	return sockets, nil
}

const loopback = 1 // the number of lo in every namespace

func (g *Ground) attachInterface(prog *ebpf.Program, spec *ebpf.ProgramSpec) (io.Closer, error) {
	if spec.AttachType == ebpf.AttachNone {
		return io.NopCloser(nil), g.tryClsact(prog)
	}
	var l link.Link
	err := InNetns(g.netns, func() (err error) {
		l, err = link.AttachTCX(link.TCXOptions{Interface: loopback, Program: prog, Attach: spec.AttachType})
		return err
	})
	return l, err
}

// tryClsact attaches a filter and removes it again.
func (g *Ground) tryClsact(prog *ebpf.Program) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(g.netns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()
	if _, err := AddClsact(h, loopback); err != nil {
		return err
	}
	f, err := AddFilter(h, loopback, netlink.HANDLE_MIN_INGRESS, prog, 0)
	if err != nil {
		return err
	}
	return h.FilterDel(f)
}

// AddClsact gives an interface the two places for filters of [AddFilter]
// (tc-bpf(8)). It returns what it added, to be removed with QdiscDel; nil where the
// interface has them already.
func AddClsact(h *netlink.Handle, ifindex int) (netlink.Qdisc, error) {
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	err := h.QdiscAdd(q)
	switch {
	case err == nil:
		return q, nil
	case errors.Is(err, unix.EEXIST):
		return nil, nil
	case errors.Is(err, unix.ENOENT):
		// The kernel says so of a queueing discipline that it does not know.
		return nil, fmt.Errorf("add clsact to interface %d: %w: %w", ifindex, ebpf.ErrNotSupported, err)
	}
	return nil, fmt.Errorf("add clsact to interface %d: %w", ifindex, err)
}

// AddFilter makes prog the first filter at parent, HANDLE_MIN_INGRESS or
// HANDLE_MIN_EGRESS, of an interface with clsact. The program reads class in its
// context as tc_classid. The filter stays until FilterDel, or until the interface
// or its qdisc goes.
func AddFilter(h *netlink.Handle, ifindex int, parent uint32, prog *ebpf.Program, class uint32) (*netlink.BpfFilter, error) {
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			// Filters of one priority are told apart by their handle.
			LinkIndex: ifindex, Parent: parent, Handle: rand.Uint32() | 1, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: "duomesh", DirectAction: true, ClassId: class,
	}
	err := h.FilterAdd(f)
	runtime.KeepAlive(prog)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return nil, fmt.Errorf("add a BPF filter to interface %d: %w: %w", ifindex, ebpf.ErrNotSupported, err)
	case err != nil:
		return nil, fmt.Errorf("add a BPF filter to interface %d: %w", ifindex, err)
	}
	return f, nil
}
