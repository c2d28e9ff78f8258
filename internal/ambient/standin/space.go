package standin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/ambient"
)

// space makes sockets in a pod's namespace. A socket stays in the namespace in
// which it was made, so a thread is there for one system call only.
type space struct{ home, ns *os.File }

func (s *space) socket() (fd int, err error) {
	runtime.LockOSThread()
	if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return -1, fmt.Errorf("enter the pod's namespace: %w", err)
	}
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if home := unix.Setns(int(s.home.Fd()), unix.CLONE_NEWNET); home != nil {
		// The thread stays locked, and dies with its goroutine.
		return -1, errors.Join(err, fmt.Errorf("leave the pod's namespace: %w", home))
	}
	runtime.UnlockOSThread()
	return fd, err
}

// dial connects from the pod's namespace, and from another's address when one is
// given, as the mesh's own: the mark keeps it from being redirected.
func (s *space) dial(from, to netip.AddrPort) (*net.TCPConn, error) {
	fd, err := s.socket()
	if err != nil {
		return nil, err
	}
	if err := prepare(fd, from); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "connection to "+to.String())
	defer file.Close() // FileConn has a descriptor of its own
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := connect(raw, fd, to); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func prepare(fd int, from netip.AddrPort) error {
	err := errors.Join(mark(fd), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	if !from.IsValid() || err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1),
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1),
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: from.Addr().Unmap().As4()}),
	)
}

// connect waits without a thread until the connection stands.
func connect(raw syscall.RawConn, fd int, to netip.AddrPort) error {
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err == nil || !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		// It is looked at before it is waited for: the answer may be here already.
		code, e := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if failed = e; e == nil && code != 0 {
			failed = unix.Errno(code)
		}
		if failed != nil {
			return true
		}
		_, e = unix.Getpeername(int(fd))
		return e == nil
	})
	return errors.Join(err, failed)
}

func mark(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, ambient.ProxyMark); err != nil {
		return fmt.Errorf("mark the socket: %w", err)
	}
	return nil
}

// control runs f with a descriptor and returns whichever error there is.
func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}
