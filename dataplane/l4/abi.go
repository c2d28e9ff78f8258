package l4

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// The forms of bpf/mesh/abi.h: addresses of 16 bytes, IPv4 as v4-mapped, ports
// in network byte order. The objects are little-endian, as the machine is.

func addrWords(a netip.Addr) [4]uint32 {
	b := a.As16()
	var w [4]uint32
	for i := range w {
		w[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return w
}

func wordsAddr(w [4]uint32) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.LittleEndian.PutUint32(b[4*i:], w[i])
	}
	return netip.AddrFrom16(b).Unmap()
}

// swapPort turns host to network byte order and back.
func swapPort(p uint16) uint16 { return p<<8 | p>>8 }

func frontendKey(f intent.Frontend) meshFrontendKey {
	return meshFrontendKey{Addr: addrWords(f.Addr), Port: swapPort(f.Port), Proto: uint8(f.Protocol)}
}

func isUDP(k meshFrontendKey) bool { return k.Proto == uint8(intent.UDP) }

func keyString(k meshFrontendKey) string {
	return intent.Frontend{
		Addr:     wordsAddr(k.Addr),
		Port:     swapPort(k.Port),
		Protocol: intent.Protocol(k.Proto),
	}.String()
}

// seal fills v.Check: see frontend_check in bpf/mesh/choose.h.
func seal(k meshFrontendKey, v meshFrontend) meshFrontend {
	const (
		k0 = 0x9e3779b185ebca87
		k1 = 0xc2b2ae3d27d4eb4f
		k2 = 0x165667b19e3779f9
		k3 = 0x85ebca77c2b2ae63
		k4 = 0x27d4eb2f165667c5
		k5 = 0xbf58476d1ce4e5b9
		k6 = 0x94d049bb133111eb
		k7 = 0xd6e8feb86659fd93
	)
	id := uint64(v.Generation)<<32 | uint64(v.Set)
	rest := uint64(v.Flags)<<48 | uint64(v.TargetPort)<<32 | uint64(v.Slots)
	v.Check = uint64(k.Addr[0])*k0 + uint64(k.Addr[1])*k1 +
		uint64(k.Addr[2])*k2 + uint64(k.Addr[3])*k3 +
		uint64(uint32(k.Port)|uint32(k.Proto)<<16)*k4 + id*k5 + rest*k6 + uint64(v.Id)*k7
	return v
}

// setID names one immutable set of slots: its first slot, and the generation,
// which is never used for another set.
type setID struct{ set, generation uint32 }

func (id setID) String() string {
	return strconv.FormatUint(uint64(id.set), 10) + "." + strconv.FormatUint(uint64(id.generation), 10)
}

func setOf(v meshFrontend) setID { return setID{v.Set, v.Generation} }
