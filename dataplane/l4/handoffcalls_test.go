package l4

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/handoff"
)

// What a child does as a waypoint, and as a client of one.

// listenHow is how a waypoint listens. It answers each connection, before it reads,
// with what SO_ORIGINAL_DST says at both levels, and who the peer is.
type listenHow struct {
	Port    int  // 0: the hand-off's
	Plain   bool // a server that knows nothing of hand-offs: its answer is "plain"
	Threads int  // that accept without waiting; 0: one that waits
	MPTCP   bool // a listener of the application's own making
	Go      bool // net.Listen, which makes MPTCP listeners
	Fast    bool // TCP_FASTOPEN
	MD5     []netip.Addr
}

// asking is what a client does to many addresses.
type asking struct {
	N, Threads int
	Proto      int
	Go         bool // net.Dial
	Fast       string
	MD5        []netip.Addr
	Hold       bool
	Port       int  // that all bind to, one after the other; 0: any
	PlainToo   bool // a server that is no waypoint is as right
	Hurry      bool // do not wait long for an answer
	// From are the addresses that the waypoint must see as the peer's.
	From []netip.Addr
	To   []netip.AddrPort
}

// asked is what came of it.
type asked struct {
	Right, Wrong, Failed int
	Plain                int // among the right ones
	Mute                 int // among the failed ones: no answer came
	// First of what was wrong or failed.
	Wrongs, Failures []string
}

func (p *wiredPod) serve(tb testing.TB, how listenHow) {
	tb.Helper()
	if a := p.do(tb, call{Op: "waypoint", Listening: how}); a.Errno != 0 {
		tb.Fatalf("waypoint %s listens: %v", p.Name, a.Errno)
	}
}

func (p *wiredPod) ask(tb testing.TB, q asking) asked {
	tb.Helper()
	return p.do(tb, call{Op: "ask", Asking: q}).Asked
}

// wantRight fails unless every connection got the address that it asked for.
func (p *wiredPod) wantRight(tb testing.TB, q asking) {
	tb.Helper()
	if got := p.ask(tb, q); got.Right != q.N || got.Wrong+got.Failed > 0 {
		tb.Errorf("%d of %d right, %d wrong %q, %d failed %q", got.Right, q.N, got.Wrong, got.Wrongs, got.Failed, got.Failures)
	}
}

func listenWaypoint(how listenHow) error {
	if how.Port == 0 {
		how.Port = handoff.PortOriginalDst
	}
	if how.Go {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", how.Port))
		if err == nil {
			go acceptGo(l)
		}
		return err
	}
	proto := 0
	if how.MPTCP {
		proto = unix.IPPROTO_MPTCP
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	for _, o := range [][3]int{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Port: how.Port}); err != nil {
		return err
	}
	if how.Fast {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN, 100); err != nil {
			return err
		}
	}
	for _, peer := range how.MD5 {
		if err := setMD5(fd, peer); err != nil {
			return err
		}
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return err
	}
	ep, err := reaper()
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, how.Threads > 0); err != nil {
		return err
	}
	for range max(1, how.Threads) {
		go acceptRaw(fd, ep, how.Plain)
	}
	return nil
}

// acceptRaw asks at once: the answer must be there before accept returns.
func acceptRaw(fd, ep int, plain bool) {
	runtime.LockOSThread()
	for {
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return
		}
		answer := "plain\n"
		if !plain {
			answer = originals(c)
		}
		unix.Write(c, []byte(answer))
		event := &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(c)}
		if unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, c, event) != nil {
			unix.Close(c)
		}
	}
}

// reaper closes connections that the client has closed. One leaves the epoll first: while
// the call that adds it still has it, a closed one stays there, and is told again under
// a number that the next connection may have by then.
func reaper() (int, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return 0, err
	}
	go func() {
		events, b := make([]unix.EpollEvent, 256), make([]byte, 4096)
		for {
			n, _ := unix.EpollWait(ep, events, -1)
			for _, e := range events[:max(0, n)] {
				got, err := unix.Read(int(e.Fd), b)
				over := got == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR
				if over && unix.EpollCtl(ep, unix.EPOLL_CTL_DEL, int(e.Fd), nil) == nil {
					unix.Close(int(e.Fd))
				}
			}
		}
	}()
	return ep, nil
}

func acceptGo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err != nil {
				return
			}
			var answer string
			raw.Control(func(fd uintptr) { answer = originals(int(fd)) })
			io.WriteString(c, answer)
			io.Copy(io.Discard, c)
		}()
	}
}

// originals asks as Envoy does: 128 bytes, both levels.
func originals(fd int) string {
	peer, err := peerOf(fd)
	if err != nil {
		return err.Error() + "\n"
	}
	return original(fd, unix.SOL_IP) + " " + original(fd, unix.SOL_IPV6) + " " + unmapped(peer).Addr().String() + "\n"
}

func original(fd, level int) string {
	b := make([]byte, 128)
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), 80,
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	port := binary.BigEndian.Uint16(b[2:])
	switch {
	case errno != 0:
		return unix.ErrnoName(errno)
	case binary.LittleEndian.Uint16(b) == unix.AF_INET && n == 16:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port).String()
	case binary.LittleEndian.Uint16(b) == unix.AF_INET6 && n == 28:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port).String()
	}
	return fmt.Sprintf("family %d of %d bytes", binary.LittleEndian.Uint16(b), n)
}
