package l4

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// tableServices are those of the decision table. Every address of the pod listens,
// so that what is refused is refused by the engine.
func tableServices() []*intent.Service {
	one := func(last int, change func(*intent.Service, *intent.Workload)) *intent.Service {
		w := workload(fmt.Sprintf("w%d", last), fmt.Sprintf("10.1.0.%d", last), fmt.Sprintf("fd00:1::%d", last))
		s := service(fmt.Sprintf("s%02d", last), []string{fmt.Sprintf("10.9.0.%d", last), fmt.Sprintf("fd00:9::%d", last)}, []uint16{80}, w)
		s.Ports = append(s.Ports, intent.Port{Port: 80, Target: 7001, Protocol: intent.UDP})
		if change != nil {
			change(s, w)
		}
		return s
	}
	locality := func(w *intent.Workload, region string) { w.Locality.Region = region }
	all := []*intent.Service{
		one(1, nil),
		one(2, func(s *intent.Service, _ *intent.Workload) { s.Endpoints = nil }),
		one(3, func(s *intent.Service, _ *intent.Workload) { s.Balance.Mode = intent.Passthrough }),
		one(4, func(_ *intent.Service, w *intent.Workload) { w.Network = "net2" }),
		one(5, func(s *intent.Service, w *intent.Workload) {
			s.Balance = intent.Balance{Mode: intent.Strict, Prefer: []intent.Scope{intent.ScopeRegion}}
			locality(w, "r2")
		}),
		one(6, func(s *intent.Service, w *intent.Workload) {
			s.Balance = intent.Balance{Mode: intent.Failover, Prefer: []intent.Scope{intent.ScopeRegion}}
			near := workload("near", "10.1.6.1", "fd00:1:6::1")
			locality(w, "r2")
			locality(near, here.Locality.Region)
			s.Endpoints = append(s.Endpoints, intent.Endpoint{Workload: near})
		}),
		one(7, func(_ *intent.Service, w *intent.Workload) { w.Weight = 0 }),
		one(8, func(s *intent.Service, w *intent.Workload) {
			w.Weight = 0
			heavy := workload("heavy", "10.1.8.1", "fd00:1:8::1")
			heavy.Weight = 1<<32 - 1
			s.Endpoints = append(s.Endpoints, intent.Endpoint{Workload: heavy})
		}),
		one(9, func(_ *intent.Service, w *intent.Workload) { w.Unhealthy = true }),
		one(10, func(s *intent.Service, w *intent.Workload) { w.Unhealthy, s.Balance.AllowUnhealthy = true, true }),
		one(11, func(_ *intent.Service, w *intent.Workload) { w.HostNetwork = true }),
		one(12, func(_ *intent.Service, w *intent.Workload) { w.Addresses = w.Addresses[:1] }),
		one(13, func(s *intent.Service, _ *intent.Workload) { s.Addresses = nil }), // headless
		one(14, func(s *intent.Service, _ *intent.Workload) { s.Ports[0].Target = 9 }),
		one(15, nil),
		one(16, nil),
		one(17, func(s *intent.Service, w *intent.Workload) {
			s.Endpoints[0].Ports = map[uint16]uint16{80: 7002}
		}),
	}
	// Two claim the address of 15; the later one by name is the canonical.
	claims := one(18, func(s *intent.Service, _ *intent.Workload) { s.Canonical = true })
	claims.Addresses = []netip.Addr{addr("10.9.0.15"), addr("fd00:9::15")}
	// And of 16, where neither is.
	second := one(19, nil)
	second.Addresses = []netip.Addr{addr("10.9.0.16"), addr("fd00:9::16")}
	return append(all, claims, second)
}

const tcp, udp, icmp = intent.TCP, intent.UDP, intent.Protocol(unix.IPPROTO_ICMP)

// unreachable: the kernel finds no way there, after the engine let it pass.
const unreachable = true

// tableRows are the lines of the decision table, in its order. What must come of
// each is intent.Decide's to say; exit is here for people, and is compared with it.
var tableRows = []struct {
	name    string
	way     string
	domain  int
	proto   intent.Protocol
	to      string
	exit    intent.Exit
	earlier intent.Exit // of the connection that the way makes before
	fails   bool
}{
	{"TCP redirect", "connect", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"TCP redirect v6", "connect", v6, tcp, "[fd00:9::1]:80", intent.Redirect, "", false},
	{"TCP redirect v4-mapped", "connect", v6, tcp, "[::ffff:10.9.0.1]:80", intent.Redirect, "", false},
	{"UDP redirect", "connect", v4, udp, "10.9.0.1:80", intent.Redirect, "", false},
	{"UDP redirect v6", "connect", v6, udp, "[fd00:9::1]:80", intent.Redirect, "", false},
	{"own target port", "connect", v4, tcp, "10.9.0.17:80", intent.Redirect, "", false},
	{"ping socket", "ping", v4, icmp, "10.9.0.1:80", intent.PassProtocol, "", false},
	{"passthrough", "connect", v4, tcp, "10.9.0.3:80", intent.PassPassthrough, "", false},
	{"passthrough UDP", "connect", v4, udp, "10.9.0.3:80", intent.PassPassthrough, "", false},
	{"no endpoint", "connect", v4, tcp, "10.9.0.2:80", intent.RefuseNoEndpoint, "", false},
	{"no endpoint UDP", "connect", v4, udp, "10.9.0.2:80", intent.RefuseNoEndpoint, "", false},
	{"no endpoint of the family", "connect", v6, tcp, "[fd00:9::12]:80", intent.RefuseNoEndpoint, "", false},
	{"endpoint on another network", "connect", v4, tcp, "10.9.0.4:80", intent.RefuseNoEndpoint, "", false},
	{"strict, none near", "connect", v4, tcp, "10.9.0.5:80", intent.RefuseNoEndpoint, "", false},
	{"failover to the near one", "connect", v4, tcp, "10.9.0.6:80", intent.Redirect, "", false},
	{"weight 0", "connect", v4, tcp, "10.9.0.7:80", intent.RefuseNoEndpoint, "", false},
	{"weights 0 and 2^32-1", "connect", v4, tcp, "10.9.0.8:80", intent.Redirect, "", false},
	{"unhealthy", "connect", v4, tcp, "10.9.0.9:80", intent.RefuseNoEndpoint, "", false},
	{"unhealthy, allowed", "connect", v4, tcp, "10.9.0.10:80", intent.Redirect, "", false},
	{"hostNetwork endpoint", "connect", v4, tcp, "10.9.0.11:80", intent.Redirect, "", false},
	{"undeclared port", "connect", v4, tcp, "10.9.0.1:7003", intent.RefuseNoPort, "", false},
	{"undeclared port UDP", "connect", v4, udp, "10.9.0.1:7003", intent.PassNoVIP, "", false},
	{"a pod's own address", "connect", v4, tcp, "10.1.0.1:80", intent.PassNoVIP, "", false},
	{"headless: a pod's own address", "connect", v4, tcp, "10.1.0.13:80", intent.PassNoVIP, "", false},
	{"unknown address", "connect", v6, tcp, "[fd00:7::1]:80", intent.PassNoVIP, "", false},
	{"loopback", "connect", v4, tcp, "127.0.0.1:80", intent.PassNoVIP, "", false},
	{"loopback v6", "connect", v6, tcp, "[::1]:80", intent.PassNoVIP, "", false},
	{"link-local with scope", "connect", v6, tcp, "[fe80::1%1]:80", intent.PassNoVIP, "", unreachable},
	{"multicast", "connect", v4, udp, "239.1.2.3:80", intent.PassNoVIP, "", unreachable},
	{"multicast v6", "connect", v6, udp, "[ff15::1]:80", intent.PassNoVIP, "", unreachable},
	{"two claimants, one canonical", "connect", v4, tcp, "10.9.0.15:80", intent.Redirect, "", false},
	{"two claimants, by name", "connect", v4, tcp, "10.9.0.16:80", intent.Redirect, "", false},
	{"bind before connect", "bind", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"bind before connect v6", "bind", v6, tcp, "[fd00:9::1]:80", intent.Redirect, "", false},
	{"SO_BINDTODEVICE", "device", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"SO_MARK", "SO_MARK", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"after a peer refused", "again", v4, tcp, "10.9.0.1:80", intent.Redirect, intent.PassNoVIP, false},
	{"after AF_UNSPEC", "AF_UNSPEC", v4, tcp, "10.9.0.1:80", intent.Redirect, intent.PassNoVIP, false},
	{"after AF_UNSPEC, UDP", "AF_UNSPEC", v4, udp, "10.9.0.1:80", intent.Redirect, intent.PassNoVIP, false},
	{"non-blocking, polled", "polled", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"MSG_FASTOPEN", "MSG_FASTOPEN", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"MSG_FASTOPEN refused", "MSG_FASTOPEN", v4, tcp, "10.9.0.2:80", intent.RefuseNoEndpoint, "", false},
	{"TCP_FASTOPEN_CONNECT", "TFO connect", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"io_uring", "io_uring", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"io_uring v6", "io_uring", v6, tcp, "[fd00:9::1]:80", intent.Redirect, "", false},
	{"io_uring refused", "io_uring", v4, tcp, "10.9.0.2:80", intent.RefuseNoEndpoint, "", false},
	{"MPTCP, to Go's MPTCP listener", "MPTCP", v4, tcp, "10.9.0.1:80", intent.Redirect, "", false},
	{"MPTCP refused", "MPTCP", v4, tcp, "10.9.0.2:80", intent.RefuseNoEndpoint, "", false},
}

// Each line of the table: the kernel's counters and the peer are what intent.Decide
// says, and so is that they are one decision.
func TestDecisionTable(t *testing.T) { testTable(t, Options{HidePeer: true}) }

// The same where what was asked is kept: applications see that as their peer.
func TestDecisionTableWithAskedPeers(t *testing.T) { testTable(t, Options{}) }

func testTable(t *testing.T, o Options) {
	n := newNode(t)
	managed, other := n.pod(t, "default/managed"), n.pod(t, "default/other")
	e := n.open(t, o)
	snapshot := intent.Snapshot{Services: tableServices()}
	apply(t, e, snapshot.Services...)
	must(t, e.Enrol(managed.Pod))
	for _, row := range tableRows {
		q := call{Op: "way", Way: row.way, Domain: row.domain, To: addrPort(row.to)}
		if row.proto == udp {
			q.Type = unix.SOCK_DGRAM
		}
		t.Run(row.name, func(t *testing.T) {
			want := intent.Decide(snapshot, intent.Caller{Managed: true, Place: here}, q.To, row.proto)
			if want.Exit != row.exit {
				t.Errorf("the model says %s, the table %s", want.Exit, row.exit)
			}
			testRow(t, e, managed, q, want, peersOf(q.To, want, o), row.earlier, row.fails)
		})
		t.Run(row.name+"/unmanaged", func(t *testing.T) {
			want := intent.Decide(snapshot, intent.Caller{Place: here}, q.To, row.proto)
			earlier := row.earlier
			if earlier != "" {
				earlier = intent.PassUnmanaged
			}
			testRow(t, e, other, q, want, peersOf(q.To, want, o), earlier, row.fails)
		})
	}
}

func testRow(
	t *testing.T, e *Engine, p *pod, q call, want intent.Decision, peers []netip.AddrPort, earlier intent.Exit, fails bool,
) {
	t.Helper()
	var a answer
	exits := exitsOf(t, e, func() { a = p.do(t, q) })
	if a.Errno == errNotRun {
		t.Skipf("NOT RUN: the kernel has no %s", q.Way)
	}
	count := map[intent.Exit]uint64{want.Exit: 1}
	if earlier != "" {
		count[earlier]++
	}
	if !reflect.DeepEqual(exits, count) {
		t.Errorf("exits %v, want %v", exits, count)
	}
	switch {
	case want.Exit.Refused():
		if a.Errno != unix.ECONNREFUSED {
			t.Errorf("errno %v, peer %v; want refused", a.Errno, a.Peer)
		}
	case fails:
	case a.Errno != 0 || !slices.Contains(peers, netip.AddrPortFrom(a.Peer.Addr().Unmap(), a.Peer.Port())):
		t.Errorf("errno %v, peer %v; want one of %v", a.Errno, a.Peer, peers)
	}
}

// peersOf are the peers that a connection may have.
func peersOf(to netip.AddrPort, d intent.Decision, o Options) []netip.AddrPort {
	if d.Exit != intent.Redirect || !o.HidePeer {
		return []netip.AddrPort{netip.AddrPortFrom(to.Addr().Unmap(), to.Port())}
	}
	var peers []netip.AddrPort
	for _, target := range d.Targets {
		peers = append(peers, target.Addr)
	}
	return peers
}

// An endpoint that does not listen refuses, and that is not the engine's refusal.
func TestPeerThatRefuses(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, tableServices()...)
	must(t, e.Enrol(p.Pod))
	var a answer
	exits := exitsOf(t, e, func() { a = p.dial(t, v4, addrPort("10.9.0.14:80")) })
	if a.Errno != unix.ECONNREFUSED || exits[intent.Redirect] != 1 || len(exits) != 1 {
		t.Errorf("errno %v, exits %v", a.Errno, exits)
	}
}

// ownJoin opens a further subflow from another address of the client to where the
// first one went, peersJoin one to another address of the peer, which announces it.
var (
	ownJoin   = []string{"endpoint", "add", "10.2.0.9", "dev", "lo", "subflow"}
	peersJoin = []string{"endpoint", "add", "10.1.0.4", "dev", "lo", "signal"}
)

// A further subflow of an MPTCP connection goes where it goes, also where that address
// is a service's to others, has undeclared ports, or is a pod's that has a waypoint.
func TestMPTCPJoinIsNotRedirected(t *testing.T) {
	once := map[intent.Exit]uint64{intent.Redirect: 1, intent.PassNoVIP: 1}
	testJoin(t, Options{}, "10.9.0.1:80", ownJoin, once)
	testJoin(t, Options{}, "10.9.0.3:80", ownJoin, once)
	testJoin(t, Options{}, "10.9.0.3:80", peersJoin, once)
}

// The control, and a known limit: where nothing is kept of the first subflow, the
// next one is decided like any other connection.
func TestMPTCPJoinIsRedirectedWhereNothingIsKept(t *testing.T) {
	testJoin(t, Options{HidePeer: true}, "10.9.0.1:80", ownJoin, map[intent.Exit]uint64{intent.Redirect: 2})
}

func testJoin(t *testing.T, o Options, to string, join []string, want map[intent.Exit]uint64) {
	t.Helper()
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, o)
	const at = 7004
	web := service("web", []string{"10.9.0.1"}, []uint16{80}, workload("a", "10.1.0.1"))
	web.Ports[0].Target = at
	again := service("again", []string{"10.1.0.1"}, []uint16{at}, workload("b", "10.1.0.2"))
	closed := service("closed", []string{"10.1.0.3"}, []uint16{80}, workload("b", "10.1.0.2"))
	other := service("other", []string{"10.9.0.3"}, []uint16{80}, workload("c", "10.1.0.3"))
	other.Ports[0].Target = at
	l7 := workload("l7", "10.1.0.4")
	l7.Waypoint = wayAt("10.3.0.1")
	must(t, e.Apply(context.Background(), intent.Snapshot{
		Services: []*intent.Service{web, again, closed, other}, Workloads: []*intent.Workload{l7},
	}))
	must(t, e.Enrol(p.Pod))
	echoTCP(t, p.Pod, at)
	for _, args := range [][]string{{"limits", "set", "subflow", "2", "add_addr_accepted", "2"}, join} {
		var out []byte
		err := kernel.InNetns(p.Netns, func() (err error) {
			out, err = exec.Command("ip", append([]string{"mptcp"}, args...)...).CombinedOutput()
			return err
		})
		if err != nil {
			t.Skipf("NOT RUN: ip mptcp %v: %v: %s", args, err, out)
		}
	}
	var a answer
	exits := exitsOf(t, e, func() {
		a = p.do(t, call{Op: "way", Way: "MPTCP", Domain: v4, To: addrPort(to), N: 1})
	})
	if a.Errno == errNotRun {
		t.Skip("NOT RUN: the kernel has no MPTCP")
	}
	// A subflow that is sent to another endpoint never joins.
	if !o.HidePeer && (a.Errno != 0 || a.Peer != addrPort(to)) {
		t.Errorf("%s, %v: errno %v, peer %v", to, join, a.Errno, a.Peer)
	}
	if !reflect.DeepEqual(exits, want) {
		t.Errorf("%s, %v: exits %v, want %v", to, join, exits, want)
	}
}

// echoTCP answers what it hears, until the test ends.
func echoTCP(t *testing.T, p Pod, port int) {
	t.Helper()
	var l net.Listener
	must(t, kernel.InNetns(p.Netns, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
}
