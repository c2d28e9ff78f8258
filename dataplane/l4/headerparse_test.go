package l4

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// What a waypoint reads, written from the documents: "The PROXY protocol", section
// 2.2, and Kmesh's description of its metadata (type of one byte, length of four in
// network byte order, value; type 1 is the original destination, 0xfe the end).

var errNoHeader = errors.New("no header")

// readHeader takes exactly the header off what comes.
func readHeader(codec intent.Codec, r io.Reader) (raw []byte, to netip.AddrPort, err error) {
	if codec == intent.ProxyV2 {
		return readProxy(r)
	}
	return readTLV(r)
}

func readProxy(r io.Reader) (raw []byte, to netip.AddrPort, err error) {
	raw = make([]byte, 16)
	if _, err := io.ReadFull(r, raw); err != nil {
		return raw, to, errNoHeader
	}
	signature := []byte{0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a}
	if !bytes.Equal(raw[:12], signature) || raw[12] != 2<<4|1 {
		return raw, to, errNoHeader
	}
	body := make([]byte, binary.BigEndian.Uint16(raw[14:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return raw, to, err
	}
	raw = append(raw, body...)
	var size int
	switch raw[13] {
	case 0x11:
		size = 4
	case 0x21:
		size = 16
	}
	if size == 0 || len(body) != 2*size+4 {
		return raw, to, errNoHeader
	}
	addr, _ := netip.AddrFromSlice(body[size : 2*size])
	return raw, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(body[2*size+2:])), nil
}

func readTLV(r io.Reader) (raw []byte, to netip.AddrPort, err error) {
	for {
		head := make([]byte, 5)
		n, err := io.ReadFull(r, head)
		raw = append(raw, head[:n]...)
		if err != nil {
			return raw, to, errNoHeader
		}
		length := binary.BigEndian.Uint32(head[1:])
		switch {
		case head[0] == 0xfe && length == 0 && to.IsValid():
			return raw, to, nil
		case head[0] != 1 || length != 4+2 && length != 16+2:
			return raw, to, errNoHeader
		}
		value := make([]byte, length)
		if _, err := io.ReadFull(r, value); err != nil {
			return raw, to, err
		}
		raw = append(raw, value...)
		addr, _ := netip.AddrFromSlice(value[:length-2])
		to = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(value[length-2:]))
	}
}

// goldenHeader is what must come, byte for byte: to is as the application asked, so
// v4-mapped where it asked by an IPv6 socket.
func goldenHeader(codec intent.Codec, from, to netip.AddrPort) []byte {
	if codec == intent.ProxyV2 {
		return goldenProxy(unmapped(from), unmapped(to))
	}
	b := []byte{1, 0, 0, 0, byte(to.Addr().BitLen()/8 + 2)}
	b = append(b, to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, to.Port())
	return append(b, 0xfe, 0, 0, 0, 0)
}

func goldenProxy(from, to netip.AddrPort) []byte {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11, 0, 12)
	if to.Addr().Is6() {
		b[13], b[15] = 0x21, 36
	}
	b = append(b, from.Addr().AsSlice()...)
	b = append(b, to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	return binary.BigEndian.AppendUint16(b, to.Port())
}

// What Kmesh's document and its unit tests expect, what section 2.2 of the PROXY protocol
// gives for an address, and what is no header.
func TestParserOfHeaders(t *testing.T) {
	for _, c := range []struct {
		codec intent.Codec
		hex   string
		to    string // "": no header
	}{
		{intent.KmeshTLV, "0100000006080808080035fe00000000", "8.8.8.8:53"},
		{intent.KmeshTLV, "0100000012fc00deadbeef1234000000000000abcd0035fe00000000", "[fc00:dead:beef:1234::abcd]:53"},
		{intent.KmeshTLV, "010000001200000000000000000000ffff080808080035fe00000000", "[::ffff:8.8.8.8]:53"},
		{intent.KmeshTLV, "0100000008080808080035fe00000000", ""},
		{intent.KmeshTLV, "fe00000000", ""},
		{intent.KmeshTLV, "474554202f20485454502f312e31", ""},
		{intent.ProxyV2, "0d0a0d0a000d0a515549540a2111000c0a4d00020a090001a00f0050", "10.9.0.1:80"},
		{intent.ProxyV2, "0d0a0d0a000d0a515549540a2121000c0a4d00020a090001a00f0050", ""},
		{intent.ProxyV2, "0d0a0d0a000d0a515549540a2011000c0a4d00020a090001a00f0050", ""},
		{intent.ProxyV2, "474554202f20485454502f312e310d0a", ""},
	} {
		in, err := hex.DecodeString(c.hex)
		must(t, err)
		raw, to, err := readHeader(c.codec, bytes.NewReader(append(in, "payload"...)))
		if c.to == "" {
			if err == nil {
				t.Errorf("%s %s: taken for %s", c.codec, c.hex, to)
			}
			continue
		}
		if err != nil || to != addrPort(c.to) || !bytes.Equal(raw, in) {
			t.Errorf("%s %s: %x, %s, %v", c.codec, c.hex, raw, to, err)
		}
		if golden := goldenHeader(c.codec, addrPort("10.77.0.2:40975"), addrPort(c.to)); !bytes.Equal(golden, in) {
			t.Errorf("%s of %s: golden %x, document %x", c.codec, c.to, golden, in)
		}
	}
}
