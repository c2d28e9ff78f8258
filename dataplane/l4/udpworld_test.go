package l4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// serveUDP answers datagrams on each of ports, from the address that they came
// to: with that address and what the datagram said.
func serveUDP(tb testing.TB, ns *os.File) {
	tb.Helper()
	for _, port := range ports {
		var conn *net.UDPConn
		must(tb, kernel.InNetns(ns, func() (err error) {
			conn, err = listenUDP(port)
			return err
		}))
		tb.Cleanup(func() { conn.Close() })
		go func() {
			for {
				if err := echo(conn, port); errors.Is(err, net.ErrClosed) {
					return
				}
			}
		}()
	}
}

func listenUDP(port uint16) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
				// The pod's addresses are routes: none is an interface's.
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20))
		}), err)
	}}
	conn, err := config.ListenPacket(context.Background(), "udp", fmt.Sprintf(":%d", port)) // both families
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// echo answers one datagram.
func echo(conn *net.UDPConn, port uint16) error {
	buf, oob := make([]byte, 512), make([]byte, unix.CmsgSpace(unix.SizeofInet6Pktinfo))
	n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) == 0 {
		return errors.Join(err, unix.EBADMSG)
	}
	info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&messages[0].Data[0]))
	at := netip.AddrPortFrom(netip.AddrFrom16(info.Addr).Unmap(), port)
	reply := at.String() + " " + string(buf[:n])
	_, _, err = conn.WriteMsgUDPAddrPort([]byte(reply), unix.PktInfo6(&unix.Inet6Pktinfo{Addr: info.Addr}), from)
	return err
}

// heard is a reply: who it seems to come from, which endpoint sent it, and what
// the datagram that it answers said.
type heard struct {
	From, At netip.AddrPort
	Said     string
}

// udpWait bounds the wait for a reply.
var udpWait = unix.Timeval{Sec: 2}

func openUDP(domain int) (int, error) {
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &udpWait); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// say sends a datagram that says where it was sent to. Without a port in to the
// socket is a connected one.
func say(fd, domain int, to netip.AddrPort) error {
	if to.Port() == 0 {
		_, err := unix.Write(fd, []byte("connected"))
		return err
	}
	return unix.Sendto(fd, []byte(to.String()), 0, sockaddr(domain, to))
}

func hear(fd int) (heard, error) {
	buf := make([]byte, 512)
	n, from, err := unix.Recvfrom(fd, buf, 0)
	for errors.Is(err, unix.EINTR) { // the runtime's signals: a socket with a timeout is not restarted
		n, from, err = unix.Recvfrom(fd, buf, 0)
	}
	if err != nil {
		return heard{}, err
	}
	at, said, _ := strings.Cut(string(buf[:n]), " ")
	h := heard{From: addrPortOf(from), Said: said}
	h.At, err = netip.ParseAddrPort(at)
	return h, err
}

// askOnce sends one datagram through a socket of its own, and hears the reply.
func askOnce(domain int, to netip.AddrPort, connected bool) (h heard, err error) {
	fd, err := openUDP(domain)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	dest := to
	if connected {
		if err := unix.Connect(fd, sockaddr(domain, to)); err != nil {
			return h, err
		}
		dest = netip.AddrPort{}
	}
	if err := say(fd, domain, dest); err != nil {
		return h, err
	}
	return hear(fd)
}

func (c *child) udp(tb testing.TB, domain int) int {
	tb.Helper()
	return c.mustDo(tb, call{Op: "udp", Domain: domain}).FD
}

// mustDo is do for calls that cannot fail unless the test is wrong.
func (c *child) mustDo(tb testing.TB, q call) answer {
	tb.Helper()
	a := c.do(tb, q)
	if a.Errno != 0 {
		tb.Fatalf("%s %v: %v", q.Op, q.To, a.Errno)
	}
	return a
}

func (c *child) say(tb testing.TB, fd, domain int, to string) {
	tb.Helper()
	c.mustDo(tb, call{Op: "say", FD: fd, Domain: domain, To: addrPort(to)})
}

func (c *child) hear(tb testing.TB, fd int) heard {
	tb.Helper()
	return c.mustDo(tb, call{Op: "hear", FD: fd}).Heard
}

// ask is say and hear.
func (c *child) ask(tb testing.TB, fd, domain int, to string) heard {
	tb.Helper()
	c.say(tb, fd, domain, to)
	return c.hear(tb, fd)
}

// underway is the number of datagrams that a socket of startAskers has on their way.
const underway = 4

// startAskers keeps asking a list of addresses from several threads, each with
// sockets of both families that it renews now and then.
func startAskers(threads int, to []netip.AddrPort) *hammer {
	h := &hammer{total: map[tally]int{}}
	for i := range threads {
		h.threads.Go(func() {
			seen := map[tally]int{}
			for n := i; !h.stop.Load(); n++ {
				askAll(to[n%len(to)], seen)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			for k, n := range seen {
				h.total[k] += n
			}
		})
	}
	return h
}

// askAll sends datagrams through one socket and receives as many.
func askAll(to netip.AddrPort, seen map[tally]int) {
	domain := unix.AF_INET
	if to.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fail := func(err error) {
		t := tally{Asked: to}
		if !errors.As(err, &t.Errno) {
			t.Errno = unix.EPROTO
		}
		seen[t]++
	}
	fd, err := openUDP(domain)
	if err != nil {
		fail(err)
		return
	}
	defer unix.Close(fd)
	for range 16 {
		for range underway {
			if err := say(fd, domain, to); err != nil {
				fail(err)
				return
			}
		}
		for range underway {
			r, err := hear(fd)
			if err != nil {
				fail(err)
				return
			}
			t := tally{Asked: to, Peer: r.At}
			if r.From != to {
				t.Errno = unix.EADDRNOTAVAIL // the reply's address is wrong
			}
			seen[t]++
		}
	}
}
