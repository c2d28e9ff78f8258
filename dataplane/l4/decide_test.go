package l4

import (
	"net/netip"
	"reflect"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

const v4, v6 = unix.AF_INET, unix.AF_INET6

// decisions is one Snapshot that reaches every exit of this engine.
func decisions() []*intent.Service {
	both := workload("both", "10.1.0.1", "fd00:1::1")
	only4 := workload("only4", "10.1.0.2")
	web := service("web", []string{"10.9.0.1", "fd00:9::1"}, []uint16{80}, both)
	own := service("own-port", []string{"10.9.0.5", "fd00:9::5"}, []uint16{80, 7002}, both, only4)
	own.Endpoints[0].Ports = map[uint16]uint16{80: 7002}
	through := service("through", []string{"10.9.0.3"}, []uint16{80}, both)
	through.Balance.Mode = intent.Passthrough
	return []*intent.Service{
		web, own, through,
		service("empty", []string{"10.9.0.2", "fd00:9::2"}, []uint16{80}),
		service("only4", []string{"10.9.0.4", "fd00:9::4"}, []uint16{80}, only4),
	}
}

func TestDecisions(t *testing.T) {
	n := newNode(t)
	managed, unmanaged := n.pod(t, "default/managed"), n.pod(t, "default/unmanaged")
	e := n.open(t, Options{HidePeer: true})
	apply(t, e, decisions()...)
	must(t, e.Enrol(managed.Pod))

	for _, c := range []struct {
		name   string
		from   *pod
		domain int
		to     string
		exit   intent.Exit
		peers  []string // of which the connection must have one; none: refused
	}{
		{"redirect v4", managed, v4, "10.9.0.1:80", intent.Redirect, []string{"10.1.0.1:7001"}},
		{"redirect v6", managed, v6, "[fd00:9::1]:80", intent.Redirect, []string{"[fd00:1::1]:7001"}},
		{"redirect v4-mapped", managed, v6, "[::ffff:10.9.0.1]:80", intent.Redirect, []string{"[::ffff:10.1.0.1]:7001"}},
		{"own target port", managed, v4, "10.9.0.5:80", intent.Redirect, []string{"10.1.0.1:7002", "10.1.0.2:7001"}},
		{"own target port of another port", managed, v4, "10.9.0.5:7002", intent.Redirect, []string{"10.1.0.1:7001", "10.1.0.2:7001"}},
		{"passthrough v4", managed, v4, "10.9.0.3:80", intent.PassPassthrough, []string{"10.9.0.3:80"}},
		{"passthrough v4-mapped", managed, v6, "[::ffff:10.9.0.3]:80", intent.PassPassthrough, []string{"[::ffff:10.9.0.3]:80"}},
		{"no endpoint v4", managed, v4, "10.9.0.2:80", intent.RefuseNoEndpoint, nil},
		{"no endpoint v6", managed, v6, "[fd00:9::2]:80", intent.RefuseNoEndpoint, nil},
		{"no endpoint v4-mapped", managed, v6, "[::ffff:10.9.0.2]:80", intent.RefuseNoEndpoint, nil},
		{"no endpoint of the family", managed, v6, "[fd00:9::4]:80", intent.RefuseNoEndpoint, nil},
		{"no port v4", managed, v4, "10.9.0.1:7003", intent.RefuseNoPort, nil},
		{"no port v6", managed, v6, "[fd00:9::1]:7003", intent.RefuseNoPort, nil},
		{"no port v4-mapped", managed, v6, "[::ffff:10.9.0.1]:7003", intent.RefuseNoPort, nil},
		{"no port of a passthrough service", managed, v4, "10.9.0.3:7003", intent.RefuseNoPort, nil},
		{"port 0", managed, v4, "10.9.0.1:0", intent.RefuseNoPort, nil},
		{"unknown address v4", managed, v4, "10.1.0.1:80", intent.PassNoVIP, []string{"10.1.0.1:80"}},
		{"unknown address v6", managed, v6, "[fd00:1::1]:80", intent.PassNoVIP, []string{"[fd00:1::1]:80"}},
		{"loopback", managed, v4, "127.0.0.1:80", intent.PassNoVIP, []string{"127.0.0.1:80"}},
		{"unmanaged v4", unmanaged, v4, "10.9.0.1:80", intent.PassUnmanaged, []string{"10.9.0.1:80"}},
		{"unmanaged v6", unmanaged, v6, "[fd00:9::1]:80", intent.PassUnmanaged, []string{"[fd00:9::1]:80"}},
		{"unmanaged, no port", unmanaged, v4, "10.9.0.1:7003", intent.PassUnmanaged, []string{"10.9.0.1:7003"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var a answer
			exits := exitsOf(t, e, func() { a = c.from.dial(t, c.domain, addrPort(c.to)) })
			if want := map[intent.Exit]uint64{c.exit: 1}; !reflect.DeepEqual(exits, want) {
				t.Errorf("exits %v, want %v", exits, want)
			}
			if c.peers == nil {
				if a.Errno != unix.ECONNREFUSED {
					t.Errorf("errno %v, peer %v; want refused", a.Errno, a.Peer)
				}
				return
			}
			if a.Errno != 0 || !slices.Contains(c.peers, a.Peer.String()) {
				t.Errorf("errno %v, peer %v; want one of %v", a.Errno, a.Peer, c.peers)
			}
		})
	}
}

// MPTCP is TCP to the decision.
func TestProtocols(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	vip := addrPort("10.9.0.1:80")

	t.Run("MPTCP", func(t *testing.T) {
		var a answer
		exits := exitsOf(t, e, func() {
			a = p.do(t, call{Op: "dial", Domain: v4, Type: unix.SOCK_STREAM, Proto: unix.IPPROTO_MPTCP, To: vip})
		})
		if a.Errno == unix.EPROTONOSUPPORT || a.Errno == unix.ENOPROTOOPT {
			t.Skipf("NOT RUN: the kernel has no MPTCP: %v", a.Errno)
		}
		if a.Peer != addrPort("10.1.0.1:7001") || exits[intent.Redirect] != 1 || len(exits) != 1 {
			t.Errorf("errno %v, peer %v, exits %v", a.Errno, a.Peer, exits)
		}
	})
}

func TestGetpeernameAnswersTheAskedAddress(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	for _, c := range []struct {
		domain int
		to     string
	}{
		{v4, "10.9.0.1:80"},
		{v6, "[fd00:9::1]:80"},
		{v6, "[::ffff:10.9.0.1]:80"},
		{v4, "10.1.0.1:7001"}, // an endpoint, asked for itself
	} {
		if a := p.dial(t, c.domain, addrPort(c.to)); a.Errno != 0 || a.Peer != addrPort(c.to) {
			t.Errorf("%s: errno %v, peer %v", c.to, a.Errno, a.Peer)
		}
	}
	// Sockets that were redirected keep their answer when the pod leaves.
	fd := p.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM}).FD
	p.connect(t, fd, "10.9.0.1:80", 0)
	must(t, e.Leave(p.Pod))
	p.wantPeer(t, fd, "10.9.0.1:80")
	p.do(t, call{Op: "close", FD: fd})
}

func (p *pod) connect(t *testing.T, fd int, to string, want syscall.Errno) {
	t.Helper()
	if a := p.do(t, call{Op: "connect", FD: fd, Domain: v4, To: addrPort(to)}); a.Errno != want {
		t.Errorf("connect to %s: errno %v, want %v", to, a.Errno, want)
	}
}

func (p *pod) wantPeer(t *testing.T, fd int, want string) {
	t.Helper()
	if a := p.do(t, call{Op: "peer", FD: fd}); a.Errno != 0 || a.Peer != addrPort(want) {
		t.Errorf("peer %v, errno %v; want %s", a.Peer, a.Errno, want)
	}
}

// A socket that connects again is decided afresh, and getpeername never answers
// for the connection before.
func TestReconnectOnOneSocket(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	fd := p.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM}).FD
	again := func() {
		if a := p.do(t, call{Op: "disconnect", FD: fd}); a.Errno != 0 {
			t.Fatalf("disconnect: %v", a.Errno)
		}
	}
	p.connect(t, fd, "10.9.0.1:80", 0)
	p.wantPeer(t, fd, "10.9.0.1:80")
	again()
	p.connect(t, fd, "10.1.0.1:7001", 0) // the endpoint itself: not the VIP any more
	p.wantPeer(t, fd, "10.1.0.1:7001")
	again()
	p.connect(t, fd, "10.9.0.1:80", 0)
	again()
	p.connect(t, fd, "10.9.0.2:80", unix.ECONNREFUSED) // refused by the engine
	p.connect(t, fd, "10.9.0.3:80", 0)                 // passthrough
	p.wantPeer(t, fd, "10.9.0.3:80")
	again()
	p.connect(t, fd, "10.9.0.1:80", 0)
	again()
	must(t, e.Leave(p.Pod)) // no program that decides runs now
	p.connect(t, fd, "10.1.0.2:80", 0)
	p.wantPeer(t, fd, "10.1.0.2:80")
	p.do(t, call{Op: "close", FD: fd})
}

// A connect that is polled, and called again, is decided once.
func TestNonBlockingConnectIsDecidedOnce(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	vip := addrPort("10.9.0.1:80")
	exits := exitsOf(t, e, func() {
		fd := p.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}).FD
		p.connect(t, fd, vip.String(), unix.EINPROGRESS)
		p.do(t, call{Op: "poll", FD: fd})
		p.do(t, call{Op: "connect", FD: fd, Domain: v4, To: vip}) // 0 or EISCONN
		p.wantPeer(t, fd, vip.String())
		p.do(t, call{Op: "close", FD: fd})
	})
	if exits[intent.Redirect] != 1 || len(exits) != 1 {
		t.Errorf("exits %v, want one redirect", exits)
	}
}

// Weights are seen by connections: 3:1 over 4000, at 6 standard deviations.
func TestWeightsInConnections(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	heavy, light := workload("heavy", "10.1.0.1"), workload("light", "10.1.0.2")
	heavy.Weight, light.Weight = 3, 1
	apply(t, e, service("web", []string{"10.9.0.1"}, []uint16{80}, heavy, light))
	must(t, e.Enrol(p.Pod))
	got := map[netip.AddrPort]int{}
	const all = 4000
	for range all {
		got[p.dial(t, v4, addrPort("10.9.0.1:80")).Peer]++
	}
	h, l := got[addrPort("10.1.0.1:7001")], got[addrPort("10.1.0.2:7001")]
	if h+l != all || h < 3000-165 || h > 3000+165 {
		t.Errorf("heavy %d, light %d of %d", h, l, all)
	}
}
