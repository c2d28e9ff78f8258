package l4

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// forger sends frames from a pod's interface under an address that no kernel has, as
// who may open packet sockets (CAP_NET_RAW) can.
type forger struct {
	fd         int
	mine, peer [6]byte
	from, to   netip.Addr
	port       uint16
}

func newForger(t *testing.T, pod, way *wiredPod) *forger {
	t.Helper()
	f := &forger{from: addr("10.77.0.250"), to: way.v4, port: 50000}
	mine, err := handleAt(t, pod.Netns).LinkByName("eth0")
	must(t, err)
	h := handleAt(t, way.Netns)
	peer, err := h.LinkByName("eth0")
	must(t, err)
	copy(f.mine[:], mine.Attrs().HardwareAddr)
	copy(f.peer[:], peer.Attrs().HardwareAddr)
	must(t, h.NeighAdd(&netlink.Neigh{
		LinkIndex: peer.Attrs().Index, IP: f.from.AsSlice(), HardwareAddr: mine.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
	}))
	must(t, kernel.InNetns(pod.Netns, func() (err error) {
		ip := int(binary.NativeEndian.Uint16([]byte{8, 0}))
		if f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ip); err != nil {
			return err
		}
		return unix.Bind(f.fd, &unix.SockaddrLinklayer{Protocol: uint16(ip), Ifindex: mine.Attrs().Index})
	}))
	t.Cleanup(func() { unix.Close(f.fd) })
	must(t, unix.SetsockoptTimeval(f.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	return f
}

const syn, rst, ack = 2, 4, 16

func (f *forger) send(t *testing.T, flags byte, seq, acked uint32, options []byte) {
	t.Helper()
	for len(options)%4 != 0 {
		options = append(options, 1) // NOP
	}
	tcp := make([]byte, 20, 60)
	binary.BigEndian.PutUint16(tcp, f.port)
	binary.BigEndian.PutUint16(tcp[2:], handoff.PortOriginalDst)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], acked)
	tcp[12], tcp[13] = byte(20+len(options))<<2, flags
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	tcp = append(tcp, options...)
	src, dst := f.from.As4(), f.to.As4()
	pseudo := append(append(src[:], dst[:]...), 0, unix.IPPROTO_TCP, 0, byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	ip := []byte{0x45, 0, 0, byte(20 + len(tcp)), 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0}
	ip = append(append(ip, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	frame := append(append(append(f.peer[:], f.mine[:]...), 8, 0), append(ip, tcp...)...)
	_, err := unix.Write(f.fd, frame)
	must(t, err)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * uint(1-i%2))
	}
	sum = sum&0xffff + sum>>16
	return ^uint16(sum + sum>>16)
}

// next returns the next segment to the forged port: flags, sequence number, data.
func (f *forger) next(t *testing.T) (flags byte, seq uint32, data string) {
	t.Helper()
	b := make([]byte, 2048)
	for {
		n, err := unix.Read(f.fd, b)
		if err != nil {
			t.Fatalf("no answer from the waypoint: %v", err)
		}
		p := b[14:n]
		if len(p) < 40 || p[9] != unix.IPPROTO_TCP || binary.BigEndian.Uint16(p[22:]) != f.port {
			continue
		}
		p = p[:binary.BigEndian.Uint16(p[2:])]
		tcp := p[20:]
		return tcp[13], binary.BigEndian.Uint32(tcp[4:]), string(tcp[tcp[12]>>4*4:])
	}
}

// connect makes one connection with these options in its SYN and returns what the
// waypoint says, which it then resets.
func (f *forger) connect(t *testing.T, options []byte) string {
	t.Helper()
	f.port++
	f.send(t, syn, 1000, 0, append([]byte{2, 4, 5, 0xb4}, options...))
	flags, seq, _ := f.next(t)
	if flags&(syn|ack) != syn|ack {
		t.Fatalf("no SYN-ACK: flags %x", flags)
	}
	f.send(t, ack, 1001, seq+1, nil)
	for {
		_, at, data := f.next(t)
		if data != "" {
			f.send(t, rst|ack, 1001, at+uint32(len(data)), nil)
			return strings.TrimSpace(data)
		}
	}
}

// option is one with the experiment's id, or another.
func option(id string, payload ...byte) []byte {
	return append([]byte{254, byte(4 + len(payload)), id[0], id[1]}, payload...)
}

// Whoever may send raw packets may write any option. It chooses a route: the peer
// that the waypoint sees stays the one that sent the packets. What is malformed,
// foreign or unknown chooses nothing.
func TestForgedOptions(t *testing.T) {
	w := newWired(t)
	pod, way := w.pod(t, w.clients, "default/forger"), w.waypoint(t, "default/waypoint", listenHow{})
	services, asked4, asked6 := vips(3, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	f := newForger(t, pod, way)
	id := binary.LittleEndian.AppendUint32(nil, handoffID(here.Network, tcpKey(asked4[1].Addr(), asked4[1].Port())))
	six := asked6[2].Addr().As16()
	sixPort := binary.BigEndian.AppendUint16(nil, asked6[2].Port())
	for _, c := range []struct {
		name    string
		options []byte
		want    string // at SOL_IP and SOL_IPV6; "": the kernel's own
		event   Event
	}{
		{"nothing", nil, "", HandoffNoAnswer},
		{"an address of nobody", option("dm", 10, 1, 2, 3, 16, 146), "10.1.2.3:4242 [::ffff:10.1.2.3]:4242", HandoffAnswered},
		{"an id", option("dm", id...), asked4[1].String() + " [::ffff:" + asked4[1].Addr().String() + "]:81", HandoffAnswered},
		{"IPv6 with the experiment's id", option("dm", append(six[:], sixPort...)...), "ENOENT " + asked6[2].String(), HandoffAnswered},
		{"IPv6 without", append(append([]byte{254, 20}, six[:]...), sixPort...), "ENOENT " + asked6[2].String(), HandoffAnswered},
		{"an unknown id", option("dm", 1, 2, 3, 4), "", HandoffUnknownID},
		{"another experiment", option("xx", 10, 1, 2, 3, 16, 146), "", HandoffNoAnswer},
		{"the resend form", option("dm"), "", HandoffNoAnswer},
		{"too short", option("dm", 10, 1, 2), "", HandoffNoAnswer},
		{"too long", option("dm", make([]byte, 20)...), "", HandoffNoAnswer},
		{"IPv6 without, not the last", append(append(append([]byte{254, 20}, six[:]...), sixPort...), 1, 1, 1, 1), "", HandoffNoAnswer},
		{"longer than the header", []byte{254, 40, 'd', 'm'}, "", HandoffNoAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said string
			w.wantEvents(t, 1, []Event{c.event}, func() { said = f.connect(t, c.options) })
			got, ok := strings.CutSuffix(said, " "+f.from.String())
			if !ok {
				t.Errorf("the waypoint says %q: another peer than who sent the packets", said)
			}
			got = strings.ReplaceAll(got, "ENOPROTOOPT", "ENOENT")
			if c.want == "" {
				c.want = "ENOENT ENOENT"
			}
			if got != c.want {
				t.Errorf("the waypoint says %q, want %q", said, c.want)
			}
		})
	}
}
