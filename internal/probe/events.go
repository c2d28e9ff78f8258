package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kind is a named moment in the life of a connection. A provider that sees
// another moment reports another kind.
type Kind uint8

// The kinds of events, as the programs in bpf/probe number them.
const (
	// Asked: an application asked for a destination, by connect or, for UDP, by
	// sending to an address.
	Asked = Kind(probeEventKindEVENT_ASKED)
	// SynSent: a TCP socket began to connect. Its port is not chosen yet.
	SynSent = Kind(probeEventKindEVENT_SYN_SENT)
	// Established: the handshake is over, on either side.
	Established = Kind(probeEventKindEVENT_ESTABLISHED)
	// Closed: the socket's state became CLOSE, by whatever way.
	Closed = Kind(probeEventKindEVENT_CLOSED)
	// Released: an application let go of a socket.
	Released = Kind(probeEventKindEVENT_RELEASED)
	// WireSyn: a SYN passed an interface of the pod.
	WireSyn = Kind(probeEventKindEVENT_WIRE_SYN)

	kinds = int(probeEventKindEVENT_KINDS)
)

var kindNames = [kinds]string{"asked", "syn-sent", "established", "closed", "released", "wire-syn"}

// String returns the name of k in results.
func (k Kind) String() string {
	if int(k) < kinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MarshalText implements [encoding.TextMarshaler].
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// event is a decoded probeEvent. Zero values are unknown, as in the ABI.
type event struct {
	probeEvent
	kind Kind
	hook probeHook
	// src and dst are IPv4 addresses where the socket is an IPv4 one; on an
	// IPv6 socket v4-mapped ones stay so. Packets have no socket: v4-mapped.
	src, dst netip.AddrPort
}

const eventSize = int(unsafe.Sizeof(probeEvent{}))

// decode reads a ring record, which need not be aligned.
func decode(raw []byte, e *event) error {
	if len(raw) < eventSize {
		return fmt.Errorf("event of %d bytes, want %d: the programs are not of this build", len(raw), eventSize)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e.probeEvent)), eventSize), raw)
	if int(e.Kind) >= kinds {
		return fmt.Errorf("event of unknown kind %d: the programs are not of this build", e.Kind)
	}
	e.kind, e.hook = Kind(e.Kind), probeHook(e.Hook)
	e.src, e.dst = addrPort(e.Src, e.Sport), addrPort(e.Dst, e.Dport)
	if e.Family == unix.AF_INET {
		e.src, e.dst = unmap(e.src), unmap(e.dst)
	}
	return nil
}

// addrPort makes an address of fields in network byte order.
func addrPort(words [4]uint32, port uint16) netip.AddrPort {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	var p [2]byte
	binary.NativeEndian.PutUint16(p[:], port)
	return netip.AddrPortFrom(netip.AddrFrom16(b), binary.BigEndian.Uint16(p[:]))
}

// wordsOf makes fields in network byte order of an address, IPv4 as v4-mapped.
func wordsOf(a netip.AddrPort) (words [4]uint32, port uint16) {
	b := a.Addr().As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	var p [2]byte
	binary.BigEndian.PutUint16(p[:], a.Port())
	return words, binary.NativeEndian.Uint16(p[:])
}

// unmap writes a v4-mapped address as IPv4.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
