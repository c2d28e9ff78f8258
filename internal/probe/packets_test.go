package probe

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// The tables of packets give each program of the links one built packet by
// BPF_PROG_TEST_RUN and look at what it counted and reported.

const testLink, testPod = 7, 3

// sawPacket is what became of one packet.
type sawPacket struct {
	// key is the counter's destination and protocol; not set: none was made.
	dst      netip.AddrPort
	protocol uint8
	packets  uint64
	syns     uint64
	unparsed uint64
	// syn is the reported event's source, destination and sequence number.
	syn [2]netip.AddrPort
	isn uint32
}

var (
	eth4  = &layers.Ethernet{SrcMAC: mac(1), DstMAC: mac(2), EthernetType: layers.EthernetTypeIPv4}
	eth6  = &layers.Ethernet{SrcMAC: mac(1), DstMAC: mac(2), EthernetType: layers.EthernetTypeIPv6}
	from4 = netip.MustParseAddrPort("10.1.0.1:40001")
	to4   = netip.MustParseAddrPort("10.2.0.2:8080")
	from6 = netip.MustParseAddrPort("[fd00::1]:40001")
	to6   = netip.MustParseAddrPort("[fd00::2]:8080")
)

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }

func ipv4(protocol layers.IPProtocol, change ...func(*layers.IPv4)) *layers.IPv4 {
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: protocol, SrcIP: from4.Addr().AsSlice(), DstIP: to4.Addr().AsSlice(),
	}
	for _, c := range change {
		c(ip)
	}
	return ip
}

func ipv6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: next, SrcIP: from6.Addr().AsSlice(), DstIP: to6.Addr().AsSlice(),
	}
}

func tcp(change ...func(*layers.TCP)) *layers.TCP {
	t := &layers.TCP{SrcPort: 40001, DstPort: 8080, Seq: 4711, Window: 1000}
	for _, c := range change {
		c(t)
	}
	return t
}

func syn(t *layers.TCP)    { t.SYN = true }
func synAck(t *layers.TCP) { t.SYN, t.ACK = true, true }
func ack(t *layers.TCP)    { t.ACK = true }
func options(t *layers.TCP) {
	t.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
}

func udp(port uint16) *layers.UDP {
	return &layers.UDP{SrcPort: 40001, DstPort: layers.UDPPort(port)}
}

func fragment(offset uint16) func(*layers.IPv4) {
	return func(ip *layers.IPv4) { ip.FragOffset = offset; ip.Flags = layers.IPv4MoreFragments }
}

func ipOptions(ip *layers.IPv4) {
	ip.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}} // record route
}

// built makes a packet; cut leaves so many bytes of it, 0 all.
func built(tb testing.TB, cut int, parts ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	buf := gopacket.NewSerializeBuffer()
	must(tb, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, parts...))
	data := buf.Bytes()
	if cut > 0 {
		data = data[:cut]
	}
	return data
}

func withPort(a netip.AddrPort, p uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), p) }

// packetTable is packets and what must be seen of each.
func packetTable(tb testing.TB) map[string]struct {
	data []byte
	want sawPacket
} {
	const tcpProto, udpProto, icmp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP
	seen := func(dst netip.AddrPort, protocol uint8) sawPacket {
		return sawPacket{dst: dst, protocol: protocol, packets: 1}
	}
	synSeen := func(src, dst netip.AddrPort) sawPacket {
		s := seen(dst, tcpProto)
		s.syns, s.syn, s.isn = 1, [2]netip.AddrPort{src, dst}, 4711
		return s
	}
	unread := func(s sawPacket) sawPacket { s.unparsed = 1; return s }
	payload := gopacket.Payload("payload that is no header")
	vlan := &layers.Ethernet{SrcMAC: mac(1), DstMAC: mac(2), EthernetType: layers.EthernetTypeDot1Q}
	type row = struct {
		data []byte
		want sawPacket
	}
	build := func(parts ...gopacket.SerializableLayer) []byte { return built(tb, 0, parts...) }
	return map[string]row{
		"SYN":              {build(eth4, ipv4(tcpProto), tcp(syn)), synSeen(from4, to4)},
		"SYN with options": {build(eth4, ipv4(tcpProto), tcp(syn, options)), synSeen(from4, to4)},
		"SYN, IP options":  {build(eth4, ipv4(tcpProto, ipOptions), tcp(syn)), synSeen(from4, to4)},
		"SYN, ACK":         {build(eth4, ipv4(tcpProto), tcp(synAck)), seen(withPort(to4, 0), tcpProto)},
		"ACK":              {build(eth4, ipv4(tcpProto), tcp(ack), payload), seen(withPort(to4, 0), tcpProto)},
		"SYN, IPv6":        {build(eth6, ipv6(tcpProto), tcp(syn)), synSeen(from6, to6)},
		"ACK, IPv6":        {build(eth6, ipv6(tcpProto), tcp(ack)), seen(withPort(to6, 0), tcpProto)},
		"IPv6 extension header": {
			build(eth6, ipv6(layers.IPProtocolIPv6HopByHop), gopacket.Payload([]byte{6, 0, 1, 4, 0, 0, 0, 0}), payload),
			unread(seen(withPort(to6, 0), 0)),
		},
		"UDP":               {build(eth4, ipv4(udpProto), udp(53), payload), seen(withPort(to4, 53), udpProto)},
		"UDP, IPv6":         {build(eth6, ipv6(udpProto), udp(53), payload), seen(withPort(to6, 53), udpProto)},
		"UDP to a client":   {build(eth4, ipv4(udpProto), udp(50000), payload), seen(withPort(to4, 0), udpProto)},
		"UDP, lowest such":  {build(eth4, ipv4(udpProto), udp(32768), payload), seen(withPort(to4, 0), udpProto)},
		"UDP, one below":    {build(eth4, ipv4(udpProto), udp(32767), payload), seen(withPort(to4, 32767), udpProto)},
		"UDP, named port":   {build(eth4, ipv4(udpProto), udp(40053), payload), seen(withPort(to4, 40053), udpProto)},
		"first fragment":    {build(eth4, ipv4(tcpProto, fragment(0)), tcp(syn)), synSeen(from4, to4)},
		"later fragment":    {build(eth4, ipv4(tcpProto, fragment(185)), payload), unread(seen(withPort(to4, 0), tcpProto))},
		"TCP cut short":     {built(tb, 14+20+12, eth4, ipv4(tcpProto), tcp(syn)), unread(seen(withPort(to4, 0), tcpProto))},
		"TCP without ports": {built(tb, 14+20+2, eth4, ipv4(tcpProto), tcp(syn)), unread(seen(withPort(to4, 0), tcpProto))},
		"IPv6 cut short":    {built(tb, 14+40+8, eth6, ipv6(tcpProto), tcp(syn)), unread(seen(withPort(to6, 0), tcpProto))},
		"ICMP": {
			build(eth4, ipv4(icmp), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0)}, payload),
			seen(withPort(to4, 0), icmp),
		},
		"ARP": {build(&layers.Ethernet{SrcMAC: mac(1), DstMAC: mac(2), EthernetType: layers.EthernetTypeARP}, payload), sawPacket{}},
		// As a device hands it up, with the tag still in the packet, nobody may
		// take it for IP.
		"VLAN tag in the packet": {
			build(vlan, &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, ipv4(tcpProto), tcp(syn)), sawPacket{},
		},
	}
}

func TestPacketsTable(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.BPF, kernel.BTF)
	for _, program := range []string{"wire_ingress", "wire_egress", "filter_ingress", "filter_egress"} {
		t.Run(program, func(t *testing.T) {
			if program[:4] == "wire" {
				kernel.Require(t, kernel.TCX)
			}
			w := newWireTest(t, program)
			for name, row := range packetTable(t) {
				t.Run(name, func(t *testing.T) {
					w.reset(t)
					w.run(row.data)
					if got := w.saw(); got != row.want {
						t.Errorf("got  %+v\nwant %+v", got, row.want)
					}
				})
			}
		})
	}
}

// wireTest is one program on maps of its own, that knows the loopback interface
// as a link.
type wireTest struct {
	tb   testing.TB
	o    *objects
	prog *ebpf.Program
	hook probeHook
	ring *ringbuf.Reader
	// unparsed is the counter before the packet.
	unparsed uint64
}

// reset forgets the packet before.
func (w *wireTest) reset(tb testing.TB) {
	tb.Helper()
	w.tb = tb
	var keys []probeWireKey
	var key probeWireKey
	var value probeWireValue
	for entries := w.o.maps.Wire.Iterate(); entries.Next(&key, &value); {
		keys = append(keys, key)
	}
	for _, key := range keys {
		must(tb, w.o.maps.Wire.Delete(key))
	}
	var err error
	w.unparsed, err = w.o.counter(probeCounterCOUNTER_UNPARSED)
	must(tb, err)
}

func newWireTest(tb testing.TB, program string) *wireTest {
	tb.Helper()
	options, err := Options{Named: []netip.AddrPort{withPort(to4, 40053)}}.normalize()
	must(tb, err)
	options.RingBytes = os.Getpagesize()
	o, err := newObjects(options)
	must(tb, err)
	tb.Cleanup(func() { o.Close() })
	must(tb, o.name(options.Named))
	spec := o.spec.Copy()
	for other := range o.spec.Programs {
		if other != program {
			delete(spec.Programs, other)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: o.shared(), Cache: kernel.Types()})
	must(tb, err)
	tb.Cleanup(coll.Close)
	own, err := os.Open("/proc/thread-self/ns/net")
	must(tb, err)
	defer own.Close()
	cookie, err := kernel.NetnsCookie(own)
	must(tb, err)
	key := probeLinkKey{Netns: cookie, Ifindex: loopback}
	must(tb, o.maps.Links.Put(key, probeLinkValue{Link: testLink, Pod: testPod}))
	// A test run has no filter: its class is 0.
	must(tb, o.maps.Classes.Put(uint32(0), key))
	w := &wireTest{tb: tb, o: o, prog: coll.Programs[program], hook: probeHookHOOK_EGRESS}
	if program == "wire_ingress" || program == "filter_ingress" {
		w.hook = probeHookHOOK_INGRESS
	}
	w.ring, err = newReader(o)
	must(tb, err)
	tb.Cleanup(func() { w.ring.Close() })
	return w
}

// run gives the program a packet, which must pass it unchanged.
func (w *wireTest) run(data []byte) {
	w.tb.Helper()
	got, out, err := w.prog.Test(data)
	must(w.tb, err)
	const next = 1<<32 - 1 // TCX_NEXT, TC_ACT_UNSPEC: -1
	if got != next || string(out) != string(data) {
		w.tb.Errorf("it returned %d, and the packet is changed: %t", int32(got), string(out) != string(data))
	}
}

// saw reads the only counter and the only event.
func (w *wireTest) saw() sawPacket {
	w.tb.Helper()
	var s sawPacket
	var err error
	s.unparsed, err = w.o.counter(probeCounterCOUNTER_UNPARSED)
	must(w.tb, err)
	s.unparsed -= w.unparsed
	var key probeWireKey
	var value probeWireValue
	entries := w.o.maps.Wire.Iterate()
	for n := 1; entries.Next(&key, &value); n++ {
		if n > 1 || key.Link != testLink || probeHook(key.Hook) != w.hook {
			w.tb.Errorf("counter %d: %+v", n, key)
		}
		s.dst, s.protocol = unmap(addrPort(key.Dst, key.Dport)), key.Protocol
		s.packets, s.syns = value.Packets, value.Syns
	}
	must(w.tb, entries.Err())
	w.ring.SetDeadline(past)
	record, err := w.ring.Read()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return s
	}
	must(w.tb, err)
	var e event
	must(w.tb, decode(record.RawSample, &e))
	if e.kind != WireSyn || e.hook != w.hook || e.Pod != testPod || e.Link != testLink {
		w.tb.Errorf("event %+v", e)
	}
	s.syn, s.isn = [2]netip.AddrPort{unmap(e.src), unmap(e.dst)}, e.Isn
	return s
}
