package l4

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ways are the ways in which an application may come to connect: each opens a
// socket, connects it to q.To and returns its peer.
var ways = map[string]func(q call) (netip.AddrPort, error){
	"connect":      func(q call) (netip.AddrPort, error) { return connectBy(q, nil) },
	"bind":         func(q call) (netip.AddrPort, error) { return connectBy(q, bindFirst) },
	"SO_MARK":      func(q call) (netip.AddrPort, error) { return connectBy(q, markFirst) },
	"device":       func(q call) (netip.AddrPort, error) { return connectBy(q, deviceFirst) },
	"TFO connect":  func(q call) (netip.AddrPort, error) { return connectBy(q, fastOpenFirst) },
	"again":        func(q call) (netip.AddrPort, error) { return connectBy(q, refusedFirst) },
	"AF_UNSPEC":    func(q call) (netip.AddrPort, error) { return connectBy(q, unspecFirst) },
	"MSG_FASTOPEN": fastOpen,
	"io_uring":     connectByRing,
	"MPTCP":        connectMPTCP,
	"polled":       polled,
	"ping":         ping,
}

// errNotRun is a way that this kernel, or its settings, do not have.
const errNotRun = unix.ENOPKG

// refusing is an address that is answered by a reset: nobody listens.
const refusing = "10.1.0.1:9"

func openWay(q call) (int, error) {
	typ := q.Type
	if typ == 0 {
		typ = unix.SOCK_STREAM
	}
	return unix.Socket(q.Domain, typ|unix.SOCK_CLOEXEC, q.Proto)
}

func connectBy(q call, first func(fd int, q call) error) (peer netip.AddrPort, err error) {
	fd, err := openWay(q)
	if err != nil {
		return peer, err
	}
	defer unix.Close(fd)
	if first != nil {
		if err := first(fd, q); err != nil {
			return peer, err
		}
	}
	if err := unix.Connect(fd, sockaddr(q.Domain, q.To)); err != nil {
		return peer, err
	}
	return peerOf(fd)
}

func bindFirst(fd int, q call) error {
	if q.Domain == v4 {
		return unix.Bind(fd, sockaddr(v4, addrPort("10.2.0.1:0")))
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1), // it is a route's address, no interface's
		unix.Bind(fd, sockaddr(v6, addrPort("[fd00:2::1]:0"))))
}

func markFirst(fd int, _ call) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x515)
}

func deviceFirst(fd int, _ call) error { return unix.BindToDevice(fd, "lo") }

func fastOpenFirst(fd int, _ call) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
}

// refusedFirst connects to where nobody listens: the socket may connect again.
func refusedFirst(fd int, _ call) error {
	if err := unix.Connect(fd, sockaddr(v4, addrPort(refusing))); !errors.Is(err, unix.ECONNREFUSED) {
		return errors.Join(unix.EPROTO, err)
	}
	return nil
}

func unspecFirst(fd int, _ call) error {
	if err := unix.Connect(fd, sockaddr(v4, addrPort("10.1.0.1:80"))); err != nil {
		return err
	}
	if errno := disconnect(fd); errno != 0 {
		return errno
	}
	return nil
}

func fastOpen(q call) (peer netip.AddrPort, err error) {
	fd, err := openWay(q)
	if err != nil {
		return peer, err
	}
	defer unix.Close(fd)
	// Without data: the server closes, and would reset what it has not read.
	if err := unix.Sendto(fd, nil, unix.MSG_FASTOPEN, sockaddr(q.Domain, q.To)); err != nil {
		return peer, err
	}
	return peerOf(fd)
}

func polled(q call) (peer netip.AddrPort, err error) {
	fd, err := unix.Socket(q.Domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return peer, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(q.Domain, q.To)); !errors.Is(err, unix.EINPROGRESS) {
		return peer, err
	}
	for range 3 { // each of them asks how far it is
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000); err != nil {
			return peer, err
		}
		if err := unix.Connect(fd, sockaddr(q.Domain, q.To)); err != nil && !errors.Is(err, unix.EISCONN) {
			return peer, err
		}
	}
	return peerOf(fd)
}

// tcpIsMPTCP is TCP_IS_MPTCP of linux/tcp.h, MPTCPINFO and so on of linux/mptcp.h.
const (
	tcpIsMPTCP = 43
	solMPTCP   = 284
	mptcpInfo  = 1
)

// connectMPTCP fails with EPROTOTYPE when the other end did not speak MPTCP.
func connectMPTCP(q call) (peer netip.AddrPort, err error) {
	fd, err := unix.Socket(q.Domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
		return peer, errNotRun
	}
	if err != nil {
		return peer, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(q.Domain, q.To)); err != nil {
		return peer, err
	}
	if is, err := unix.GetsockoptInt(fd, unix.SOL_TCP, tcpIsMPTCP); err == nil && is == 0 {
		return peer, unix.EPROTOTYPE
	}
	if q.N > 0 {
		if err := awaitSubflows(fd, q.N); err != nil {
			return peer, err
		}
	}
	return peerOf(fd)
}

// awaitSubflows exchanges bytes with an echo until the connection has so many
// further subflows.
func awaitSubflows(fd, n int) error {
	buf := make([]byte, 512)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if _, err := unix.Write(fd, []byte("x")); err != nil {
			return err
		}
		if _, err := unix.Read(fd, buf[:1]); err != nil {
			return err
		}
		size := uint32(len(buf))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), solMPTCP, mptcpInfo,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return errNotRun
		}
		if int(buf[0]) >= n { // mptcpi_subflows
			return nil
		}
	}
	return unix.ETIMEDOUT
}

func ping(q call) (peer netip.AddrPort, err error) {
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0o644); err != nil {
		return peer, errNotRun
	}
	q.Type, q.Proto = unix.SOCK_DGRAM, unix.IPPROTO_ICMP
	return connectBy(q, nil)
}

// ringParams is struct io_uring_params of linux/io_uring.h.
type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		user                                                uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		user                                                uint64
	}
}

const (
	ringOpConnect  = 16         // IORING_OP_CONNECT
	ringOffSQ      = 0          // IORING_OFF_SQ_RING
	ringOffSQEs    = 0x10000000 // IORING_OFF_SQES
	ringSingleMap  = 1          // IORING_FEAT_SINGLE_MMAP
	ringGetEvents  = 1          // IORING_ENTER_GETEVENTS
	ringEntrySize  = 64
	ringResultSize = 16
)

// connectByRing connects by one request of io_uring.
func connectByRing(q call) (peer netip.AddrPort, err error) {
	fd, err := openWay(q)
	if err != nil {
		return peer, err
	}
	defer unix.Close(fd)
	var p ringParams
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 || p.features&ringSingleMap == 0 {
		return peer, errNotRun
	}
	defer unix.Close(int(ring))
	size := max(p.sq.array+4*p.sqEntries, p.cq.cqes+ringResultSize*p.cqEntries)
	rings, err := unix.Mmap(int(ring), ringOffSQ, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return peer, err
	}
	defer unix.Munmap(rings)
	entries, err := unix.Mmap(int(ring), ringOffSQEs, int(ringEntrySize*p.sqEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return peer, err
	}
	defer unix.Munmap(entries)

	var pin runtime.Pinner
	defer pin.Unpin()
	sa, length := rawAddr(q)
	pin.Pin(&sa[0])
	entries[0] = ringOpConnect
	*(*int32)(unsafe.Pointer(&entries[4])) = int32(fd)
	*(*uint64)(unsafe.Pointer(&entries[8])) = uint64(length)                           // off: addrlen
	*(*uint64)(unsafe.Pointer(&entries[16])) = uint64(uintptr(unsafe.Pointer(&sa[0]))) // addr
	*(*uint32)(unsafe.Pointer(&rings[p.sq.array])) = 0
	*(*uint32)(unsafe.Pointer(&rings[p.sq.tail])) = 1
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, ringGetEvents, 0, 0); errno != 0 {
		return peer, errno
	}
	if result := *(*int32)(unsafe.Pointer(&rings[p.cq.cqes+8])); result < 0 {
		return peer, syscall.Errno(-result)
	}
	return peerOf(fd)
}

func rawAddr(q call) ([]byte, int) {
	b := make([]byte, unix.SizeofSockaddrInet6)
	*(*uint16)(unsafe.Pointer(&b[0])) = uint16(q.Domain)
	b[2], b[3] = byte(q.To.Port()>>8), byte(q.To.Port())
	if q.Domain == v4 {
		a := q.To.Addr().As4()
		copy(b[4:], a[:])
		return b, unix.SizeofSockaddrInet4
	}
	a := q.To.Addr().As16()
	copy(b[8:], a[:])
	return b, unix.SizeofSockaddrInet6
}
