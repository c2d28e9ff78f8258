package netsim

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/duomesh/duomesh/internal/scenario"
)

// The address plan. Node i, counted from 1, has 10.i.0.0/16 and fd00:10:0:i::/64:
// the first address is the node's own, pods follow. Services have the ranges
// that Kubernetes installers use.
var (
	vipRange4 = netip.MustParsePrefix("10.96.0.0/12")
	vipRange6 = netip.MustParsePrefix("fd96::/108")
)

// gateway4 and gateway6 are every pod's default gateway. Nobody owns them: a
// permanent neighbour entry gives them the node's link address.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

func nodePrefix4(node int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(node), 0, 0}), 16)
}

func nodePrefix6(node int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 0, 0, 0, byte(node)}), 64)
}

// nodeAddrs are the node's own addresses.
func nodeAddrs(node int) Addresses {
	return Addresses{IPv4: nodePrefix4(node).Addr().Next(), IPv6: nodePrefix6(node).Addr().Next()}
}

// podAddrs are the n'th addresses of the pod'th pod of a node, all counted from
// their first. No IPv4 address ends in 0 or 255.
func podAddrs(node, pod, n int) Addresses {
	v6 := nodePrefix6(node).Addr().As16()
	binary.BigEndian.PutUint32(v6[12:], uint32(0x100+pod))
	v6[11] = byte(n)
	// MaxPodsPerNode takes less than block of the third bytes.
	const block, last = 64, 254
	return Addresses{
		IPv4: netip.AddrFrom4([4]byte{10, byte(node), byte(1 + n*block + pod/last), byte(1 + pod%last)}),
		IPv6: netip.AddrFrom16(v6),
	}
}

// moreAddrs are those of a pod that has several of each family, from the second.
func moreAddrs(node, k int, p scenario.Pod) []Addresses {
	var all []Addresses
	for n := 1; n < p.Addresses; n++ {
		all = append(all, podAddrs(node, k, n))
	}
	return all
}

// planAddrs gives every pod its addresses, the declared ones where there are any.
func planAddrs(t scenario.Topology, declared map[string]Addresses) (map[string]Addresses, error) {
	plan, owner := map[string]Addresses{}, map[netip.Addr]string{}
	for i, n := range t.Nodes {
		own := nodeAddrs(i + 1)
		owner[own.IPv4], owner[own.IPv6] = "node "+n.Name, "node "+n.Name
		for k, p := range n.Pods {
			a := podAddrs(i+1, k, 0)
			if d := declared[p.Name].IPv4; d.IsValid() {
				a.IPv4 = d
			}
			if d := declared[p.Name].IPv6; d.IsValid() {
				a.IPv6 = d
			}
			plan[p.Name] = a
		}
	}
	for name := range declared {
		if _, ok := plan[name]; !ok {
			return nil, fmt.Errorf("addresses declared for pod %s, which is not in the topology", name)
		}
	}
	for i, n := range t.Nodes {
		for k, p := range n.Pods {
			for _, a := range append([]Addresses{plan[p.Name]}, moreAddrs(i+1, k, p)...) {
				if err := claim(owner, "pod "+p.Name, a); err != nil {
					return nil, err
				}
			}
		}
	}
	return plan, nil
}

// addressError is about one address of a pod or a service.
type addressError struct {
	owner string // "pod p" or "service s"
	addr  netip.Addr
	text  string
}

// Error implements error.
func (e addressError) Error() string { return e.owner + ": " + e.text }

func badAddress(owner string, addr netip.Addr, format string, args ...any) error {
	return addressError{owner, addr, addr.String() + " " + fmt.Sprintf(format, args...)}
}

func claim(owner map[netip.Addr]string, who string, a Addresses) error {
	if !a.IPv4.Is4() || !a.IPv6.Is6() || a.IPv6.Is4In6() {
		return fmt.Errorf("%s: %s and %s are not an IPv4 and an IPv6 address", who, a.IPv4, a.IPv6)
	}
	for _, addr := range []netip.Addr{a.IPv4, a.IPv6} {
		switch {
		case !addr.IsGlobalUnicast() || addr.Zone() != "":
			return badAddress(who, addr, "is not a unicast address")
		case vipRange4.Contains(addr) || vipRange6.Contains(addr):
			return badAddress(who, addr, "is in the range of services")
		case owner[addr] != "":
			return badAddress(who, addr, "belongs to %s", owner[addr])
		}
		owner[addr] = who
	}
	return nil
}

// vips hands out virtual addresses; a service keeps what it got.
type vips struct {
	declared map[string][]netip.Addr
	given    map[string]Addresses
	used     map[netip.Addr]string
	last4    netip.Addr
	last6    netip.Addr
}

func newVIPs(declared map[string][]netip.Addr, pods map[string]Addresses) (*vips, error) {
	v := &vips{
		declared: declared, given: map[string]Addresses{}, used: map[netip.Addr]string{},
		last4: vipRange4.Addr(), last6: vipRange6.Addr(),
	}
	for pod, a := range pods {
		v.used[a.IPv4], v.used[a.IPv6] = "pod "+pod, "pod "+pod
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) { // the same complaint each time
		if err := v.declare(name, declared[name]); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// reserve keeps addresses from being allotted.
func (v *vips) reserve(who string, addrs ...netip.Addr) {
	for _, a := range addrs {
		if v.used[a] == "" {
			v.used[a] = who
		}
	}
}

func (v *vips) declare(name string, addrs []netip.Addr) error {
	var got Addresses
	for _, a := range addrs {
		if !a.IsGlobalUnicast() || a.Is4In6() || a.Zone() != "" {
			return badAddress("service "+name, a, "is not a unicast address")
		}
		if who := v.used[a]; who != "" {
			return badAddress("service "+name, a, "belongs to %s", who)
		}
		slot := &got.IPv6
		if a.Is4() {
			slot = &got.IPv4
		}
		if slot.IsValid() {
			return badAddress("service "+name, a, "and %s are of one family, at most one of each", *slot)
		}
		*slot, v.used[a] = a, "service "+name
	}
	v.given[name] = got
	return nil
}

// of returns the addresses of a service, which has them from now on.
func (v *vips) of(name string, f scenario.Family) (Addresses, error) {
	got := v.given[name]
	if has4(f) && !got.IPv4.IsValid() {
		a, err := v.next(&v.last4, vipRange4)
		if err != nil {
			return got, fmt.Errorf("service %s: %w", name, err)
		}
		got.IPv4, v.used[a] = a, "service "+name
	}
	if has6(f) && !got.IPv6.IsValid() {
		a, err := v.next(&v.last6, vipRange6)
		if err != nil {
			return got, fmt.Errorf("service %s: %w", name, err)
		}
		got.IPv6, v.used[a] = a, "service "+name
	}
	v.given[name] = got
	return got, nil
}

func (v *vips) next(last *netip.Addr, in netip.Prefix) (netip.Addr, error) {
	for a := last.Next(); in.Contains(a); a = a.Next() {
		if v.used[a] == "" {
			*last = a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address left in %s", in)
}

// has4 and has6 say which virtual addresses a service of a family has. A
// service is IPv4 when nothing is said.
func has4(f scenario.Family) bool { return f != scenario.IPv6 }

func has6(f scenario.Family) bool { return f == scenario.IPv6 || f == scenario.Dual }
