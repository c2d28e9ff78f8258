package kind

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
)

// addresses gives services theirs. Each world begins elsewhere, since the services
// of the one before may not be gone yet.
type addresses struct {
	from  netip.Prefix
	first uint32
	given map[string]netip.Addr
}

func newAddresses(from netip.Prefix, run int) addresses {
	return addresses{from: from, first: uint32(os.Getpid())*37 + uint32(run)*16, given: map[string]netip.Addr{}}
}

// of returns a service's address, which is the same whenever it is asked for.
func (a *addresses) of(service string) (netip.Addr, error) {
	if at, ok := a.given[service]; ok {
		return at, nil
	}
	if !a.from.Addr().Is4() || a.from.Bits() > 24 {
		return netip.Addr{}, fmt.Errorf("addresses for services: %s is not of IPv4, or holds fewer than 256", a.from)
	}
	base := a.from.Masked().Addr().As4()
	size := uint32(1) << (32 - a.from.Bits())
	n := (a.first + uint32(len(a.given))) % (size - 2)
	var at [4]byte
	binary.BigEndian.PutUint32(at[:], binary.BigEndian.Uint32(base[:])+1+n)
	a.given[service] = netip.AddrFrom4(at)
	return a.given[service], nil
}
