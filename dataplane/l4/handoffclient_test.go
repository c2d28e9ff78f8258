package l4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/handoff"
)

// held are connections that the child keeps until it ends.
var held struct {
	sync.Mutex
	fds     []int
	conns   []net.Conn
	sockets []*ebpf.Map
}

func ask(q asking) (total asked) {
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range max(1, q.Threads) {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(q.N); i = next.Add(1) {
				to := q.To[int(i)%len(q.To)]
				line, err := askOne(q, to)
				mu.Lock()
				total.judge(q, to, line, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return total
}

// judge holds an answer against what was asked: SOL_IP answers for IPv4 alone, and
// SOL_IPV6 for both.
func (a *asked) judge(q asking, to netip.AddrPort, line string, err error) {
	const kept = 3
	switch {
	case err != nil:
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, os.ErrDeadlineExceeded) {
			a.Mute++
		}
		if a.Failed++; a.Failed <= kept {
			a.Failures = append(a.Failures, fmt.Sprintf("%s: %v", to, err))
		}
	case q.PlainToo && line == "plain\n":
		a.Plain++
		a.Right++
	case isRight(q, to, strings.Fields(line)):
		a.Right++
	default:
		if a.Wrong++; a.Wrong <= kept {
			a.Wrongs = append(a.Wrongs, fmt.Sprintf("%s: %q", to, line))
		}
	}
}

func isRight(q asking, to netip.AddrPort, said []string) bool {
	if len(said) != 3 {
		return false
	}
	if len(q.From) > 0 && !slices.Contains(q.From, addr(said[2])) {
		return false
	}
	if to.Addr().Unmap().Is6() { // at the other level the kernel's own answer stands
		return said[1] == to.String()
	}
	as6 := netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	return said[0] == unmapped(to).String() && said[1] == as6.String()
}

func askOne(q asking, to netip.AddrPort) (string, error) {
	if q.Go {
		return askGo(q, to)
	}
	domain := unix.AF_INET
	if !to.Addr().Is4() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, q.Proto)
	if err != nil {
		return "", err
	}
	keep := false
	defer func() {
		if !keep {
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			unix.Close(fd)
		}
	}()
	for _, peer := range q.MD5 {
		if err := setMD5(fd, peer); err != nil {
			return "", fmt.Errorf("MD5: %w", err)
		}
	}
	patience := &unix.Timeval{Sec: 30}
	if q.Hurry {
		patience = &unix.Timeval{Usec: 300_000}
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, patience); err != nil {
		return "", err
	}
	if q.Port != 0 {
		if err := bindTo(fd, domain, q.Port); err != nil {
			return "", fmt.Errorf("bind: %w", err)
		}
	}
	if err := connectAs(fd, q.Fast, sockaddr(domain, to)); err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	line, err := readLine(fd)
	if err != nil {
		return "", err
	}
	peer, err := peerOf(fd)
	if err != nil || peer != to {
		return "", fmt.Errorf("getpeername says %v, %w", peer, err)
	}
	if q.Hold {
		held.Lock()
		held.fds = append(held.fds, fd)
		held.Unlock()
		keep = true
	}
	return line, nil
}

func bindTo(fd, domain, port int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if domain == unix.AF_INET {
		return unix.Bind(fd, &unix.SockaddrInet4{Port: port})
	}
	return unix.Bind(fd, &unix.SockaddrInet6{Port: port})
}

// connectAs connects, and sends with the SYN where a form of Fast Open is named.
func connectAs(fd int, fast string, to unix.Sockaddr) error {
	switch fast {
	case "message":
		return unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, to)
	case "connect":
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
			return err
		}
		if err := unix.Connect(fd, to); err != nil {
			return err
		}
		_, err := unix.Write(fd, []byte("hello"))
		return err
	}
	return unix.Connect(fd, to)
}

func readLine(fd int) (string, error) {
	var line []byte
	b := make([]byte, 256)
	for !strings.HasSuffix(string(line), "\n") {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return "", fmt.Errorf("read: %w", err)
		case n == 0:
			return "", fmt.Errorf("read: %w", io.ErrUnexpectedEOF)
		default:
			line = append(line, b[:n]...)
		}
	}
	return string(line), nil
}

func askGo(q asking, to netip.AddrPort) (string, error) {
	var d net.Dialer
	d.SetMultipathTCP(q.Proto == unix.IPPROTO_MPTCP)
	c, err := d.DialContext(context.Background(), "tcp", to.String())
	if err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", errors.Join(err, c.Close())
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if q.Hold && err == nil {
		held.Lock()
		held.conns = append(held.conns, c)
		held.Unlock()
	} else {
		c.Close()
	}
	return string(b[:n]), err
}

// md5Key is struct tcp_md5sig of linux/tcp.h.
type md5Key struct {
	Addr    [128]byte
	Flags   uint8
	Prefix  uint8
	Len     uint16
	Ifindex int32
	Key     [80]byte
}

func setMD5(fd int, peer netip.Addr) error {
	k := md5Key{Len: 4}
	copy(k.Key[:], "test")
	if peer.Is4() {
		binary.LittleEndian.PutUint16(k.Addr[:], unix.AF_INET)
		a := peer.As4()
		copy(k.Addr[4:], a[:])
	} else {
		binary.LittleEndian.PutUint16(k.Addr[:], unix.AF_INET6)
		a := peer.As16()
		copy(k.Addr[8:], a[:])
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_TCP, unix.TCP_MD5SIG,
		uintptr(unsafe.Pointer(&k)), unsafe.Sizeof(k), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// askOptions reads options of a new socket, large and small, and returns the first
// that is not as the kernel alone would answer.
func askOptions() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, o := range []struct {
		level, option int
		room          uint32
		errno         syscall.Errno
		short         bool // fewer bytes than room
	}{
		{unix.SOL_TCP, unix.TCP_INFO, 8192, 0, true},
		{unix.SOL_TCP, unix.TCP_INFO, 8, 0, false},
		{unix.SOL_SOCKET, unix.SO_TYPE, 64 << 10, 0, true},
		{unix.SOL_TCP, unix.TCP_NODELAY, 4, 0, false},
		{unix.SOL_SOCKET, 9999, 4, unix.ENOPROTOOPT, false},
		{unix.SOL_IP, handoff.VersionOption, 2, unix.ENOPROTOOPT, false},
	} {
		b, n := make([]byte, o.room), o.room
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(o.option),
			uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
		if errno != o.errno || errno == 0 && (n < o.room) != o.short {
			return fmt.Errorf("level %d option %d of %d bytes: %w, %d bytes", o.level, o.option, o.room, errno, n)
		}
	}
	return nil
}
