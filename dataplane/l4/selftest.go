package l4

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// RewrittenError says that a program of someone else changes where connections go:
// the engine does not see what was asked, or its choice does not hold.
type RewrittenError struct {
	// Cgroup is where that was found, Programs are the programs that were there.
	Cgroup   string
	Programs []Neighbour
	// Asked was asked for over Network ("tcp", "udp"), in a network namespace in
	// which the first program after the engine's sends it to Want. Got is what
	// became of it instead.
	Network     string
	Asked, Want netip.AddrPort
	Got         string
}

// Error implements error.
func (r RewrittenError) Error() string {
	return fmt.Sprintf("a program of someone else changes where connections of cgroup %s go: %v over %s should have reached %v, and got: %s; it is one of %v: detach it, or go on by force",
		r.Cgroup, r.Asked, r.Network, r.Want, r.Got, r.Programs)
}

// The addresses of the test: 240.0.0.0/4 and 100::/64 lead nowhere (RFC 1112,
// RFC 6666), and the namespace has a loopback only.
var (
	askedInTest  = []netip.Addr{netip.MustParseAddr("240.0.0.1"), netip.MustParseAddr("100::1")}
	targetInTest = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
)

// askedPort is the port of the test.
const askedPort = 15999

// tested finds out by connections of a scratch cgroup below this one whether what
// the engine's programs do holds there. Programs are those of others that run there
// too, for the error.
func (e *Engine) tested(cgroup *os.File, programs []Neighbour) error {
	err := e.test(cgroup, programs)
	var rewritten RewrittenError
	if e.force && errors.As(err, &rewritten) {
		e.log.Warn("going on by force", "err", err)
		return nil
	}
	return err
}

func (e *Engine) test(cgroup *os.File, programs []Neighbour) (err error) {
	ns, err := kernel.NewNetns()
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	if err := loopback(ns); err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	stop, err := listenInTest(ns)
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	detach, err := e.attachTest(ns)
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer func() { err = errors.Join(err, detach()) }()
	scratch, err := scratchBelow(cgroup)
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer func() { err = errors.Join(err, scratch.remove()) }()
	return kernel.InNetns(ns, func() error { return connectAll(scratch.dir, cgroup.Name(), programs) })
}

func connectAll(scratch *os.File, cgroup string, programs []Neighbour) error {
	for i, asked := range askedInTest {
		to, want := netip.AddrPortFrom(asked, askedPort), netip.AddrPortFrom(targetInTest[i], askedPort)
		for network, typ := range map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM} {
			got, errno, err := kernel.DialIn(scratch, typ, to)
			switch {
			case err != nil:
				return fmt.Errorf("self-test: %w", err)
			case errno != 0:
				return RewrittenError{cgroup, programs, network, to, want, errno.Error()}
			case got != want:
				return RewrittenError{cgroup, programs, network, to, want, got.String()}
			}
		}
	}
	return nil
}

func loopback(ns *os.File) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	if err != nil {
		return fmt.Errorf("reach network namespace: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set up the loopback: %w", err)
	}
	return nil
}

// listenInTest answers TCP connections to the targets.
func listenInTest(ns *os.File) (stop func() error, err error) {
	var fds []int
	stop = func() error {
		var errs []error
		for _, fd := range fds {
			errs = append(errs, unix.Close(fd))
		}
		return errors.Join(errs...)
	}
	err = kernel.InNetns(ns, func() error {
		for _, sa := range []unix.Sockaddr{
			&unix.SockaddrInet4{Port: askedPort, Addr: targetInTest[0].As4()},
			&unix.SockaddrInet6{Port: askedPort, Addr: targetInTest[1].As16()},
		} {
			fd, err := listenAt(sa)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

func listenAt(sa unix.Sockaddr) (int, error) {
	domain := unix.AF_INET
	if _, is6 := sa.(*unix.SockaddrInet6); is6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	if err := errors.Join(unix.Bind(fd, sa), unix.Listen(fd, 8)); err != nil {
		return -1, errors.Join(fmt.Errorf("listen on the loopback: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// attachTest puts programs behind the engine's on the node's cgroup that send the
// asked addresses to the targets, for connections of one network namespace.
func (e *Engine) attachTest(ns *os.File) (detach func() error, err error) {
	cookie, err := kernel.NetnsCookie(ns)
	if err != nil {
		return nil, err
	}
	var links []link.Link
	detach = func() error {
		var errs []error
		for _, l := range links {
			errs = append(errs, l.Close())
		}
		return errors.Join(errs...)
	}
	for i, attach := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect} {
		l, err := attachRedirect(e.host.Cgroup, attach, cookie, askedInTest[i], targetInTest[i])
		if err != nil {
			return nil, errors.Join(err, detach())
		}
		links = append(links, l)
	}
	return detach, nil
}

func attachRedirect(cgroup *os.File, attach ebpf.AttachType, cookie uint64, asked, target netip.Addr) (link.Link, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "mesh_selftest", Type: ebpf.CGroupSockAddr, AttachType: attach,
		License: "GPL", Instructions: redirect(cookie, asked, target),
	})
	if err != nil {
		return nil, fmt.Errorf("load the program of the test: %w", explain(err))
	}
	defer prog.Close()
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: prog, Attach: attach})
	if err != nil {
		return nil, fmt.Errorf("attach the program of the test: %w", explain(err))
	}
	return l, nil
}

// Offsets in struct bpf_sock_addr of linux/bpf.h.
const (
	userIP4 = 4
	userIP6 = 8
)

// redirect is a program that writes target over asked where the network namespace
// is the one with this cookie.
func redirect(cookie uint64, asked, target netip.Addr) asm.Instructions {
	offset, from, to := int16(userIP6), addrWords(asked), addrWords(target)
	words := from[:]
	if asked.Is4() {
		offset, words = userIP4, from[3:]
	}
	written := to[len(to)-len(words):]
	program := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetNetnsCookie.Call(),
		asm.LoadImm(asm.R1, int64(cookie), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "out"),
	}
	for i, w := range words {
		program = append(program,
			asm.LoadMem(asm.R1, asm.R6, offset+int16(4*i), asm.Word),
			asm.LoadImm(asm.R2, int64(w), asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, "out"))
	}
	for i, w := range written {
		program = append(program,
			asm.LoadImm(asm.R1, int64(w), asm.DWord),
			asm.StoreMem(asm.R6, offset+int16(4*i), asm.R1, asm.Word))
	}
	return append(program, asm.Mov.Imm(asm.R0, 1).WithSymbol("out"), asm.Return())
}

// scratch is a cgroup for the processes of one test.
type scratch struct {
	parent *os.File
	name   string
	dir    *os.File
}

var scratches atomic.Int64

const scratchPrefix = "duomesh-test-"

func scratchBelow(parent *os.File) (*scratch, error) {
	if err := sweepScratches(parent); err != nil {
		return nil, err
	}
	s := &scratch{parent: parent, name: fmt.Sprintf("%s%d-%d", scratchPrefix, os.Getpid(), scratches.Add(1))}
	if err := unix.Mkdirat(int(parent.Fd()), s.name, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup below %s: %w", parent.Name(), err)
	}
	fd, err := unix.Openat(int(parent.Fd()), s.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a cgroup below %s: %w", parent.Name(), err), s.remove())
	}
	s.dir = os.NewFile(uintptr(fd), parent.Name()+"/"+s.name)
	return s, nil
}

// sweepScratches removes what a process has left that was killed in a test: the next
// one may have its number. A cgroup has one engine, so none is in use.
func sweepScratches(parent *os.File) error {
	fd, err := unix.Openat(int(parent.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", parent.Name(), err)
	}
	dir := os.NewFile(uintptr(fd), parent.Name())
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list cgroup %s: %w", parent.Name(), err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, scratchPrefix) {
			continue
		}
		if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove the cgroup of an earlier test below %s: %s: %w", parent.Name(), name, err)
		}
	}
	return nil
}

func (s *scratch) remove() error {
	var errs []error
	if s.dir != nil {
		errs = append(errs, s.dir.Close())
	}
	if err := unix.Unlinkat(int(s.parent.Fd()), s.name, unix.AT_REMOVEDIR); err != nil {
		errs = append(errs, fmt.Errorf("remove the cgroup of a test below %s: %w", s.parent.Name(), err))
	}
	return errors.Join(errs...)
}
