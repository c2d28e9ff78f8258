package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// livingNetns is a namespace that reaches itself at addresses other than the loopback's.
func livingNetns(t *testing.T) *os.File {
	t.Helper()
	Require(t, Root)
	ns, err := NewNetns()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	must(t, err)
	defer h.Close()
	lo, err := h.LinkByIndex(loopback)
	must(t, err)
	must(t, h.LinkSetUp(lo))
	for _, text := range []string{"192.0.2.1/32", "2001:db8::1/128"} {
		a, err := netlink.ParseAddr(text)
		must(t, err)
		a.Flags = unix.IFA_F_NODAD // else nobody can bind to it for a moment
		must(t, h.AddrAdd(lo, a))
	}
	return ns
}

// reach connects as soon as there is a way: an address of IPv6 gets its route in a work
// queue of the kernel, after it was added.
func reach(network, to string) (net.Conn, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for {
		c, err := net.Dial(network, to)
		if !errors.Is(err, syscall.ENETUNREACH) {
			return c, err
		}
		select {
		case <-tick.C:
		case <-late:
			return nil, err
		}
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// pair is a connection from both ends.
type pair struct {
	network  string
	client   net.Conn
	server   net.Conn // nil for UDP
	listener interface{ Close() error }
}

// connect makes one inside ns to a new server at an address.
func connect(t *testing.T, ns *os.File, network, address string) pair {
	t.Helper()
	p := pair{network: network}
	must(t, InNetns(ns, func() (err error) {
		if network == "udp" {
			u, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
			if err != nil {
				return err
			}
			p.listener = u
			p.client, err = reach("udp", u.LocalAddr().String())
			return err
		}
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			return err
		}
		p.listener = l
		if p.client, err = reach("tcp", l.Addr().String()); err != nil {
			return err
		}
		p.server, err = l.Accept()
		return err
	}))
	t.Cleanup(func() {
		p.client.Close()
		if p.server != nil {
			p.server.Close()
		}
		p.listener.Close()
	})
	return p
}

func TestConnections(t *testing.T) {
	Require(t, Root, SockDiag)
	ns := livingNetns(t)
	if all, err := Connections(ns); err != nil || len(all) > 0 {
		t.Fatalf("of an empty namespace: %v, %v", all, err)
	}
	var want []netip.AddrPort
	for _, network := range []string{"tcp", "udp"} {
		for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
			want = append(want, portOf(connect(t, ns, network, address)))
		}
	}
	// None of these is one that the namespace has made and that leads anywhere.
	connect(t, ns, "tcp", "127.0.0.1")
	closed := connect(t, ns, "tcp", "192.0.2.1")
	must(t, closed.client.Close())
	all, err := Connections(ns)
	must(t, err)
	var got []netip.AddrPort
	for _, c := range all {
		got = append(got, c.Local)
	}
	slices.SortFunc(got, netip.AddrPort.Compare)
	slices.SortFunc(want, netip.AddrPort.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("connections are from %v, want %v", got, want)
	}
}

func portOf(p pair) netip.AddrPort {
	return netip.MustParseAddrPort(p.client.LocalAddr().String())
}

func TestEndConnections(t *testing.T) {
	Require(t, Root, EndSockets)
	ns := livingNetns(t)
	var ended []pair
	for _, network := range []string{"tcp", "udp"} {
		for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
			ended = append(ended, connect(t, ns, network, address))
		}
	}
	all, err := Connections(ns)
	must(t, err)
	stays := connect(t, ns, "tcp", "192.0.2.1") // made after the list
	n, err := EndConnections(ns, all)
	if err != nil || n != len(ended) {
		t.Fatalf("ended %d, %v, want %d", n, err, len(ended))
	}
	for _, p := range ended {
		if _, err := p.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("%s %s: the application sees %v", p.network, p.client.RemoteAddr(), err)
		}
		if p.server == nil {
			continue
		}
		if _, err := p.server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s %s: the other end sees %v", p.network, p.client.RemoteAddr(), err)
		}
	}
	if _, err := stays.client.Write([]byte("x")); err != nil {
		t.Errorf("a younger connection: %v", err)
	}
	if _, err := stays.server.Read(make([]byte, 1)); err != nil {
		t.Errorf("a younger connection, at its other end: %v", err)
	}
	if n, err := EndConnections(ns, all); err != nil || n != 0 {
		t.Errorf("ended again: %d, %v", n, err)
	}
}
