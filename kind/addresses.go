package kind

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/duomesh/duomesh/internal/scenario"
)

// addresses gives services theirs. Each world begins elsewhere, since the services
// of the one before may not be gone yet.
type addresses struct {
	ipv4, ipv6 netip.Prefix // the second is not valid where the cluster has IPv4 alone
	first      uint32
	numbers    map[string]uint32
	given      map[string][]netip.Addr // IPv4 before IPv6
}

func newAddresses(ipv4, ipv6 netip.Prefix, run int) addresses {
	return addresses{
		ipv4: ipv4, ipv6: ipv6, first: uint32(os.Getpid())*37 + uint32(run)*16,
		numbers: map[string]uint32{}, given: map[string][]netip.Addr{},
	}
}

// of returns a service's addresses, which are the same whenever it is asked for with
// the same family.
func (a *addresses) of(s scenario.Service) ([]netip.Addr, error) {
	n, ok := a.numbers[s.Name]
	if !ok {
		n = uint32(len(a.numbers))
		a.numbers[s.Name] = n
	}
	var all []netip.Addr
	for _, f := range []struct {
		from netip.Prefix
		not  scenario.Family
	}{{a.ipv4, scenario.IPv6}, {a.ipv6, scenario.IPv4}} {
		if s.Family == f.not {
			continue
		}
		at, err := nth(f.from, a.first+n)
		if err != nil {
			return nil, err
		}
		all = append(all, at)
	}
	a.given[s.Name] = all
	return all, nil
}

// nth is an address of a prefix by its number, without the first and the last.
func nth(from netip.Prefix, n uint32) (netip.Addr, error) {
	bits := from.Addr().BitLen() - from.Bits()
	if !from.IsValid() || bits < leastBits || bits > mostBits {
		return netip.Addr{}, fmt.Errorf("addresses for services: %s holds too few, or too many", from)
	}
	n = 1 + n%(1<<bits-2)
	at := from.Masked().Addr().AsSlice()
	for i := len(at) - 1; n > 0; i-- {
		at[i] |= byte(n)
		n >>= 8
	}
	addr, _ := netip.AddrFromSlice(at)
	return addr, nil
}

// The sizes of what services get their addresses from.
const leastBits, mostBits = 8, 24

// of is the address of a family among a pod's or a service's; invalid when there is none.
func of(family scenario.Family, all []netip.Addr) netip.Addr {
	for _, a := range all {
		if a.Is6() == (family == scenario.IPv6) {
			return a
		}
	}
	return netip.Addr{}
}
