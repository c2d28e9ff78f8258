package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var (
	// SockDiag is the list of TCP and UDP sockets of sock_diag(7) (CONFIG_INET_DIAG,
	// CONFIG_INET_UDP_DIAG).
	SockDiag = Feature{Name: "sock_diag", Probe: probeSockDiag}
	// EndSockets is SOCK_DESTROY of sock_diag(7) (CONFIG_INET_DIAG_DESTROY).
	EndSockets = Feature{Name: "SOCK_DESTROY", Since: "4.5", Probe: probeEndSockets}
)

// Connection is a connection that a process of a network namespace has made: TCP, or a
// connected UDP socket.
type Connection struct {
	// Protocol is IPPROTO_TCP or IPPROTO_UDP.
	Protocol      uint8
	Local, Remote netip.AddrPort

	family uint8
	id     netlink.SocketID
}

// sockets is a list of sock_diag.
type sockets struct {
	protocol uint8
	module   string // of the kernel
	list     func(family uint8) ([]*netlink.Socket, error)
}

// Connections returns the open connections that were made in a network namespace: not
// those that were accepted there, which have the port of a listener, nor those over the
// loopback, nor those that no process has any more.
func Connections(ns *os.File) (all []Connection, err error) {
	err = InNetns(ns, func() error {
		for _, s := range []sockets{
			{unix.IPPROTO_TCP, "tcp_diag", netlink.SocketDiagTCP},
			{unix.IPPROTO_UDP, "udp_diag", netlink.SocketDiagUDP},
		} {
			found, err := s.connections()
			if err != nil {
				return err
			}
			all = append(all, found...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the connections of %s: %w", ns.Name(), err)
	}
	return all, nil
}

func (s sockets) connections() ([]Connection, error) {
	var found []*netlink.Socket
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := whole(func() ([]*netlink.Socket, error) { return s.list(f) })
		if errors.Is(err, unix.ENOENT) && f == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("%w: this kernel has no %s", ebpf.ErrNotSupported, s.module)
		}
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	listeners := map[uint16]bool{}
	for _, sk := range found {
		if sk.State == netlink.TCP_LISTEN {
			listeners[sk.ID.SourcePort] = true
		}
	}
	var all []Connection
	for _, sk := range found {
		c := Connection{
			Protocol: s.protocol, family: sk.Family, id: sk.ID,
			Local: address(sk.ID.Source, sk.ID.SourcePort), Remote: address(sk.ID.Destination, sk.ID.DestinationPort),
		}
		if isOpen(sk) && !listeners[sk.ID.SourcePort] && c.Remote.Port() != 0 && !c.Remote.Addr().IsLoopback() {
			all = append(all, c)
		}
	}
	return all, nil
}

// whole asks again for a list that changed while it was read.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 10 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// isOpen: a process has the socket, and it is connected or about to be.
func isOpen(s *netlink.Socket) bool {
	switch s.State {
	case netlink.TCP_ESTABLISHED, netlink.TCP_SYN_SENT, netlink.TCP_FIN_WAIT1, netlink.TCP_FIN_WAIT2, netlink.TCP_CLOSE_WAIT:
		return s.INode != 0
	}
	return false
}

func address(ip []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// EndConnections ends connections of a network namespace: the application gets
// ECONNABORTED, the other end of TCP a reset. It returns how many there still were; one
// that has ended is no error.
func EndConnections(ns *os.File, all []Connection) (ended int, err error) {
	err = InNetns(ns, func() error {
		var errs []error
		for _, c := range all {
			switch err := destroy(c); {
			case err == nil:
				ended++
			case !errors.Is(err, unix.ENOENT):
				errs = append(errs, fmt.Errorf("%s to %s: %w", c.Local, c.Remote, err))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return ended, fmt.Errorf("end connections of %s: %w", ns.Name(), err)
	}
	return ended, nil
}

// destroy asks for the end of one socket, by its addresses and cookie, in the namespace
// of the calling thread.
func destroy(c Connection) error {
	r := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	r.AddData(diagRequest(c))
	_, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	return err
}

// diagRequest is inet_diag_req_v2 of linux/inet_diag.h.
type diagRequest Connection

// Len implements nl.NetlinkRequestData.
func (diagRequest) Len() int { return 56 }

// Serialize implements nl.NetlinkRequestData.
func (r diagRequest) Serialize() []byte {
	b := make([]byte, 0, r.Len())
	b = append(b, r.family, r.Protocol, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 1<<32-1) // of any state
	b = binary.BigEndian.AppendUint16(b, r.id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, r.id.DestinationPort)
	for _, ip := range [][]byte{r.id.Source, r.id.Destination} {
		var field [16]byte
		if r.family == unix.AF_INET && len(ip) == len(field) {
			ip = ip[12:]
		}
		copy(field[:], ip)
		b = append(b, field[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, r.id.Interface)
	b = binary.NativeEndian.AppendUint32(b, r.id.Cookie[0])
	return binary.NativeEndian.AppendUint32(b, r.id.Cookie[1])
}

func probeSockDiag() error {
	ns, err := NewNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	_, err = Connections(ns)
	return err
}

// probeEndSockets asks for the end of a socket that there is none of, in a namespace
// without any. A kernel that lists no sockets says the same of each: there is none.
func probeEndSockets() error {
	ns, err := NewNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	if _, err := Connections(ns); err != nil {
		return err
	}
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		c := Connection{Protocol: protocol, family: unix.AF_INET, id: netlink.SocketID{
			SourcePort: 1, DestinationPort: 1, Cookie: [2]uint32{nl.TCPDIAG_NOCOOKIE, nl.TCPDIAG_NOCOOKIE},
		}}
		if _, err := EndConnections(ns, []Connection{c}); err != nil {
			return err
		}
	}
	return nil
}
