package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DialIn connects as a process of a cgroup would, from the network namespace of the
// calling thread, and returns the peer that the kernel has: of which cgroup a socket
// is follows from the process that opens it. Typ is SOCK_STREAM or SOCK_DGRAM.
//
// The process is a copy of this one that makes four system calls and ends. Errno is
// what the first of them that failed said; err says that it could not be tried.
func DialIn(cgroup *os.File, typ int, to netip.AddrPort) (peer netip.AddrPort, errno unix.Errno, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	shared, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return peer, 0, fmt.Errorf("memory to share with a process: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(shared)) }()
	d := (*dial)(unsafe.Pointer(&shared[0]))
	d.set(typ, to)
	if err := d.fork(cgroup); err != nil || d.errno != 0 {
		return peer, unix.Errno(d.errno), err
	}
	return d.peer(), 0, nil
}

// dial is what the process is told and what it answers.
type dial struct {
	domain, typ uintptr
	addr        [28]byte // sockaddr_in or sockaddr_in6
	length      uint32   // of addr
	done        uint32
	errno       uintptr
}

func (d *dial) set(typ int, to netip.AddrPort) {
	d.typ = uintptr(typ) | unix.SOCK_CLOEXEC
	if to.Addr().Is4() {
		d.domain, d.length = unix.AF_INET, unix.SizeofSockaddrInet4
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&d.addr))
		sa.Family, sa.Addr = unix.AF_INET, to.Addr().As4()
	} else {
		d.domain, d.length = unix.AF_INET6, unix.SizeofSockaddrInet6
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&d.addr))
		sa.Family, sa.Addr = unix.AF_INET6, to.Addr().As16()
	}
	d.addr[2], d.addr[3] = byte(to.Port()>>8), byte(to.Port())
}

func (d *dial) peer() netip.AddrPort {
	port := uint16(d.addr[2])<<8 | uint16(d.addr[3])
	if d.domain == unix.AF_INET {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&d.addr))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port)
	}
	sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&d.addr))
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), port)
}

// cloneArgs are struct clone_args of linux/sched.h up to cgroup (Linux 5.7).
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal     uint64
	stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// fork runs the process in a cgroup and waits for its end.
func (d *dial) fork(cgroup *os.File) error {
	args := cloneArgs{
		flags: unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(cgroup.Fd()),
	}
	// No handler of this process may run in its copy.
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	pid, errno := d.clone(&args)
	err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	if errno != 0 {
		return errors.Join(fmt.Errorf("start a process in cgroup %s: %w", cgroup.Name(), errno), err)
	}
	var status unix.WaitStatus
	for {
		if _, werr := unix.Wait4(int(pid), &status, 0, nil); werr == nil {
			break
		} else if !errors.Is(werr, unix.EINTR) {
			return errors.Join(fmt.Errorf("wait for the process in cgroup %s: %w", cgroup.Name(), werr), err)
		}
	}
	if d.done == 0 {
		return errors.Join(fmt.Errorf("the process in cgroup %s ended early: status %#x", cgroup.Name(), int(status)), err)
	}
	return err
}

// clone returns twice, and in the copy never: only this thread is there, so that
// nothing may be called but the kernel.
//
//go:norace
//go:noinline
func (d *dial) clone(args *cloneArgs) (pid uintptr, errno unix.Errno) {
	pid, _, errno = unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	fd, _, failed := unix.RawSyscall(unix.SYS_SOCKET, d.domain, d.typ, 0)
	if failed == 0 {
		_, _, failed = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&d.addr)), uintptr(d.length))
	}
	if failed == 0 {
		_, _, failed = unix.RawSyscall(unix.SYS_GETPEERNAME, fd, uintptr(unsafe.Pointer(&d.addr)), uintptr(unsafe.Pointer(&d.length)))
	}
	d.errno, d.done = uintptr(failed), 1
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
