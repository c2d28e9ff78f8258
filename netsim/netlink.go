package netsim

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// space is a network namespace and a netlink socket in it. It owns both.
type space struct {
	ns *os.File
	nl *netlink.Handle
}

func (s *space) close() error {
	s.nl.Close()
	return s.ns.Close()
}

// dumpAttempts bounds the repeats of an interrupted dump.
const dumpAttempts = 10

// linkNamed returns a link of the namespace. A request by name is no dump, but
// the library falls back to one; a dump that the kernel interrupted is repeated.
func (s *space) linkNamed(name string) (netlink.Link, error) {
	for range dumpAttempts {
		l, err := s.nl.LinkByName(name)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return l, err
		}
	}
	return nil, fmt.Errorf("link %s: %w", name, netlink.ErrDumpInterrupted)
}

// up sets a link up by its index.
func (s *space) up(index int) error {
	return s.nl.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
}

// addAddr gives an interface an address that no other host shares its prefix with.
func (s *space) addAddr(index int, a netip.Addr) error {
	flags := 0
	if a.Is6() {
		flags = unix.IFA_F_NODAD
	}
	err := s.nl.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}},
		&netlink.Addr{IPNet: ipNet(single(a)), Flags: flags})
	if err != nil {
		return fmt.Errorf("add address %s: %w", a, err)
	}
	return nil
}

// addRoute routes a prefix out of an interface: directly, or by a gateway that
// need not be in reach of any address (onlink).
func (s *space) addRoute(index int, dst netip.Prefix, via netip.Addr) error {
	r := &netlink.Route{LinkIndex: index, Dst: ipNet(dst), Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		r.Gw, r.Scope, r.Flags = via.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	if err := s.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("add route to %s: %w", dst, err)
	}
	return nil
}

// addLocal makes every address of a prefix the namespace's own.
func (s *space) addLocal(lo int, dst netip.Prefix) error {
	r := &netlink.Route{
		LinkIndex: lo, Dst: ipNet(dst), Type: unix.RTN_LOCAL,
		Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
	}
	if err := s.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("add local route to %s: %w", dst, err)
	}
	return nil
}

// addNeigh makes the link address of a neighbour known for good.
func (s *space) addNeigh(index int, a netip.Addr, mac net.HardwareAddr) error {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	err := s.nl.NeighSet(&netlink.Neigh{
		LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT,
		IP: a.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", a, err)
	}
	return nil
}

// addVeth makes a pair with one end in s and the other in peer, both up, and
// returns the two interface indexes. On error nothing of it is left.
func (s *space) addVeth(name string, mac net.HardwareAddr, peer *space, peerName string, peerMAC net.HardwareAddr) (int, int, error) {
	v := netlink.NewVeth(netlink.LinkAttrs{Name: name, HardwareAddr: mac, TxQLen: 1000})
	v.PeerName, v.PeerHardwareAddr = peerName, peerMAC
	v.PeerNamespace = netlink.NsFd(peer.ns.Fd())
	if err := s.nl.LinkAdd(v); err != nil {
		return 0, 0, fmt.Errorf("add veth %s: %w", name, err)
	}
	mine, theirs, err := s.raise(name, peer, peerName)
	if err != nil {
		return 0, 0, errors.Join(fmt.Errorf("veth %s: %w", name, err), s.nl.LinkDel(v))
	}
	return mine, theirs, nil
}

func (s *space) raise(name string, peer *space, peerName string) (int, int, error) {
	mine, err := s.linkNamed(name)
	if err != nil {
		return 0, 0, err
	}
	theirs, err := peer.linkNamed(peerName)
	if err != nil {
		return 0, 0, err
	}
	m, t := mine.Attrs().Index, theirs.Attrs().Index
	return m, t, errors.Join(s.up(m), peer.up(t))
}

// mac returns a locally administered unicast address for one end of a link.
func mac(kind, a, b int) net.HardwareAddr {
	return net.HardwareAddr{0x02, byte(kind), byte(a >> 8), byte(a), byte(b >> 8), byte(b)}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// openNetlink opens a netlink socket inside ns.
func openNetlink(ns *os.File) (*netlink.Handle, error) {
	nl, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", ns.Name(), err)
	}
	return nl, nil
}
