package l4

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// udpService is service for datagrams.
func udpService(name string, vips []string, workloads ...*intent.Workload) *intent.Service {
	s := service(name, vips, []uint16{80}, workloads...)
	s.Ports[0].Protocol = intent.UDP
	return s
}

// udpDecisions are the services of decisions, for datagrams.
func udpDecisions() []*intent.Service {
	all := decisions()
	for _, s := range all {
		for i := range s.Ports {
			s.Ports[i].Protocol = intent.UDP
		}
	}
	return all
}

// mesh is an engine with one managed pod.
func mesh(t *testing.T, services ...*intent.Service) (*Engine, *pod) {
	t.Helper()
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, services...)
	must(t, e.Enrol(p.Pod))
	return e, p
}

var udpCases = []struct {
	name   string
	domain int
	to     string
	exit   intent.Exit
	at     []string // the endpoints of which one must answer; none: refused
}{
	{"redirect v4", v4, "10.9.0.1:80", intent.Redirect, []string{"10.1.0.1:7001"}},
	{"redirect v6", v6, "[fd00:9::1]:80", intent.Redirect, []string{"[fd00:1::1]:7001"}},
	{"redirect v4-mapped", v6, "[::ffff:10.9.0.1]:80", intent.Redirect, []string{"10.1.0.1:7001"}},
	{"own target port", v4, "10.9.0.5:80", intent.Redirect, []string{"10.1.0.1:7002", "10.1.0.2:7001"}},
	{"passthrough", v4, "10.9.0.3:80", intent.PassPassthrough, []string{"10.9.0.3:80"}},
	{"no endpoint v4", v4, "10.9.0.2:80", intent.RefuseNoEndpoint, nil},
	{"no endpoint v6", v6, "[fd00:9::2]:80", intent.RefuseNoEndpoint, nil},
	{"no endpoint v4-mapped", v6, "[::ffff:10.9.0.2]:80", intent.RefuseNoEndpoint, nil},
	{"no endpoint of the family", v6, "[fd00:9::4]:80", intent.RefuseNoEndpoint, nil},
	{"undeclared port", v4, "10.9.0.1:7003", intent.PassNoVIP, []string{"10.9.0.1:7003"}},
	{"unknown address v4", v4, "10.1.0.1:80", intent.PassNoVIP, []string{"10.1.0.1:80"}},
	{"unknown address v6", v6, "[fd00:1::1]:80", intent.PassNoVIP, []string{"[fd00:1::1]:80"}},
	{"loopback", v4, "127.0.0.1:80", intent.PassNoVIP, []string{"127.0.0.1:80"}},
}

// Datagrams are decided as the table says, and the reply of each comes from the
// address that was asked, whether the socket is connected or not.
func TestDatagrams(t *testing.T) {
	e, p := mesh(t, udpDecisions()...)
	snapshot := intent.Snapshot{Services: udpDecisions()}
	for _, c := range udpCases {
		to := addrPort(c.to)
		want := intent.Decide(snapshot, intent.Caller{Managed: true, Place: here}, to, intent.UDP)
		if want.Exit != c.exit {
			t.Errorf("%s: the model says %s, the table %s", c.name, want.Exit, c.exit)
		}
		t.Run(c.name+"/unconnected", func(t *testing.T) {
			testDatagram(t, e, p, call{Op: "say", Domain: c.domain, To: to}, c.exit, c.at)
		})
		t.Run(c.name+"/connected", func(t *testing.T) {
			testDatagram(t, e, p, call{Op: "connect", Domain: c.domain, To: to}, c.exit, c.at)
		})
	}
}

// testDatagram makes the first call, which is decided, on a new socket.
func testDatagram(t *testing.T, e *Engine, p *pod, first call, exit intent.Exit, at []string) {
	t.Helper()
	first.FD = p.udp(t, first.Domain)
	defer p.do(t, call{Op: "close", FD: first.FD})
	var a answer
	exits := exitsOf(t, e, func() { a = p.do(t, first) })
	if want := map[intent.Exit]uint64{exit: 1}; !reflect.DeepEqual(exits, want) {
		t.Errorf("exits %v, want %v", exits, want)
	}
	if at == nil {
		if a.Errno != unix.ECONNREFUSED {
			t.Errorf("errno %v, want refused", a.Errno)
		}
		return
	}
	if a.Errno != 0 {
		t.Fatalf("%s: %v", first.Op, a.Errno)
	}
	said := first.To.String()
	if first.Op == "connect" {
		said = "connected"
		more := exitsOf(t, e, func() { p.mustDo(t, call{Op: "say", FD: first.FD}) })
		if len(more) > 0 {
			t.Errorf("a send of a connected socket was decided: %v", more)
		}
		p.wantPeer(t, first.FD, first.To.String())
	}
	h := p.hear(t, first.FD)
	if h.From != first.To || h.Said != said || !slices.Contains(at, h.At.String()) {
		t.Errorf("heard %+v, want a reply from %v, sent by one of %v", h, first.To, at)
	}
}

// The control: a pod that is not managed asks the VIP itself.
func TestDatagramsOfOthersPass(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/other")
	e := n.open(t, Options{})
	apply(t, e, udpDecisions()...)
	testDatagram(t, e, p, call{Op: "say", Domain: v4, To: addrPort("10.9.0.1:80")}, intent.PassUnmanaged, []string{"10.9.0.1:80"})
	testDatagram(t, e, p, call{Op: "connect", Domain: v6, To: addrPort("[fd00:9::1]:80")}, intent.PassUnmanaged, []string{"[fd00:9::1]:80"})
}

// A service of one protocol says nothing of the other, but for TCP's rule of
// undeclared ports.
func TestProtocolsAreApart(t *testing.T) {
	tcp := service("tcp", []string{"10.9.0.1"}, []uint16{80}, workload("a", "10.1.0.1"))
	e, p := mesh(t, tcp, udpService("udp", []string{"10.9.0.2"}, workload("b", "10.1.0.2")))
	testDatagram(t, e, p, call{Op: "say", Domain: v4, To: addrPort("10.9.0.1:80")}, intent.PassNoVIP, []string{"10.9.0.1:80"})
	exits := exitsOf(t, e, func() {
		if a := p.dial(t, v4, addrPort("10.9.0.2:80")); a.Errno != unix.ECONNREFUSED {
			t.Errorf("errno %v, want refused", a.Errno)
		}
	})
	if exits[intent.RefuseNoPort] != 1 || len(exits) != 1 {
		t.Errorf("exits %v", exits)
	}
}

// trio is a service with three endpoints, of which some are given.
func trio(have ...int) *intent.Service {
	var ws []*intent.Workload
	for _, i := range have {
		ws = append(ws, workload("w"+itoa(i), fmt.Sprintf("10.1.0.%d", i), fmt.Sprintf("fd00:1::%d", i)))
	}
	return udpService("trio", []string{"10.9.0.1", "fd00:9::1"}, ws...)
}

// All datagrams of one socket to one address go to one endpoint, other sockets
// have their own choice.
func TestChoiceOfASocketIsKept(t *testing.T) {
	_, p := mesh(t, trio(1, 2, 3))
	seen := map[netip.AddrPort]int{}
	const sockets = 60
	for range sockets {
		fd := p.udp(t, v4)
		first := p.ask(t, fd, v4, "10.9.0.1:80")
		for range 5 {
			if h := p.ask(t, fd, v4, "10.9.0.1:80"); h != first {
				t.Fatalf("heard %+v after %+v", h, first)
			}
		}
		p.do(t, call{Op: "close", FD: fd})
		seen[first.At]++
	}
	// Each is chosen by none of 60 with probability (2/3)^60 < 1e-10.
	if len(seen) != 3 {
		t.Errorf("%d sockets chose %v, want all three", sockets, seen)
	}
}

// A change of the service leaves the choice alone while its endpoint is in it,
// else the next datagram is chosen anew; replies on their way keep their address.
func TestFlowWhenTheServiceChanges(t *testing.T) {
	for _, domain := range []int{v4, v6} {
		vip := map[int]string{v4: "10.9.0.1:80", v6: "[fd00:9::1]:80"}[domain]
		t.Run(vip, func(t *testing.T) {
			e, p := mesh(t, trio(1, 2, 3, 4, 5))
			fd := p.udp(t, domain)
			defer p.do(t, call{Op: "close", FD: fd})
			first := p.ask(t, fd, domain, vip)
			mine := int(first.At.Addr().AsSlice()[first.At.Addr().BitLen()/8-1])
			others := slices.DeleteFunc([]int{1, 2, 3, 4, 5, 6, 7}, func(i int) bool { return i == mine })
			// Its place among the others changes from time to time.
			for _, have := range [][]int{{mine}, append(slices.Clone(others), mine), append([]int{mine}, others...), slices.Clone(others[:3])} {
				if !slices.Contains(have, mine) {
					have = append(have, mine)
				}
				apply(t, e, trio(have...))
				for range 3 {
					if h := p.ask(t, fd, domain, vip); h != first {
						t.Fatalf("among %v: heard %+v after %+v", have, h, first)
					}
				}
			}
			p.say(t, fd, domain, vip)
			apply(t, e, trio(others...))
			p.say(t, fd, domain, vip)
			a, b := p.hear(t, fd), p.hear(t, fd)
			if a != first {
				t.Errorf("the late reply: %+v, want %+v", a, first)
			}
			if b.From != first.From || b.At == first.At {
				t.Errorf("after its endpoint went: %+v, before %+v", b, first)
			}
			apply(t, e)
			if a := p.do(t, call{Op: "say", FD: fd, Domain: domain, To: addrPort(vip)}); a.Errno != 0 {
				t.Errorf("after the service went: %v", a.Errno)
			}
			if h := p.hear(t, fd); h.At != addrPort(vip) {
				t.Errorf("after the service went: %+v", h)
			}
		})
	}
}

// A target port that changes while the endpoints stay is a change.
func TestFlowWhenTheTargetPortChanges(t *testing.T) {
	e, p := mesh(t, trio(1))
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	p.ask(t, fd, v4, "10.9.0.1:80")
	moved := trio(1)
	moved.Ports[0].Target = 7002
	apply(t, e, moved)
	if h := p.ask(t, fd, v4, "10.9.0.1:80"); h.At != addrPort("10.1.0.1:7002") || h.From != addrPort("10.9.0.1:80") {
		t.Errorf("heard %+v", h)
	}
}

// A socket that sends to more addresses than are kept for it: the least recently
// used is forgotten, and no reply shows another address than the one asked.
func TestFlowsOfASocketAreBounded(t *testing.T) {
	const many = int(meshMeshSizeFLOWS) + 6
	var services []*intent.Service
	for i := range many {
		// Endpoints of their own: replies can be told apart.
		services = append(services, udpService("s"+itoa(i), []string{"10.9.1." + itoa(i)},
			workload(fmt.Sprintf("a%d", i), "10.1.1."+itoa(i)), workload(fmt.Sprintf("b%d", i), "10.1.2."+itoa(i))))
	}
	e, p := mesh(t, services...)
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	vip := func(i int) string { return fmt.Sprintf("10.9.1.%d:80", i) }
	exits := exitsOf(t, e, func() {
		for i := range many {
			p.say(t, fd, v4, vip(i))
		}
	})
	if want := (map[intent.Exit]uint64{intent.Redirect: uint64(many), intent.Exit(FlowEvicted): 6}); !reflect.DeepEqual(exits, want) {
		t.Errorf("exits %v, want %v", exits, want)
	}
	for range many {
		if h := p.hear(t, fd); h.From.String() != h.Said {
			t.Errorf("a reply to %s shows %v", h.Said, h.From)
		}
	}
	// The youngest are kept, and the first one takes the place of the oldest.
	if again := exitsOf(t, e, func() { p.ask(t, fd, v4, vip(many-1)) }); again[intent.Exit(FlowEvicted)] != 0 {
		t.Errorf("the youngest flow was not kept: %v", again)
	}
	if again := exitsOf(t, e, func() { p.ask(t, fd, v4, vip(0)) }); again[intent.Exit(FlowEvicted)] != 1 {
		t.Errorf("the oldest flow was kept: %v", again)
	}
}

// Two addresses that lead to the same endpoints get different ones, so that their
// replies can be told apart; where there is only one, the last asked is shown.
func TestTwoAddressesOneEndpoint(t *testing.T) {
	a, b := workload("a", "10.1.0.1"), workload("b", "10.1.0.2")
	e, p := mesh(t,
		udpService("x", []string{"10.9.0.1"}, a, b), udpService("y", []string{"10.9.0.2"}, a, b),
		udpService("one", []string{"10.9.0.3"}, a), udpService("two", []string{"10.9.0.4"}, a))
	t.Run("two endpoints", func(t *testing.T) {
		shared := 0
		for range 20 {
			fd := p.udp(t, v4)
			events := exitsOf(t, e, func() {
				p.say(t, fd, v4, "10.9.0.1:80")
				p.say(t, fd, v4, "10.9.0.2:80")
			})
			h1, h2 := p.hear(t, fd), p.hear(t, fd)
			switch {
			case events[intent.Exit(FlowShared)] > 0:
				shared++ // with probability 1/16
			case h1.At == h2.At, h1.From.String() != h1.Said, h2.From.String() != h2.Said:
				t.Errorf("heard %+v and %+v", h1, h2)
			}
			p.do(t, call{Op: "close", FD: fd})
		}
		if shared > 12 { // probability below 1e-9
			t.Errorf("%d of 20 shared an endpoint", shared)
		}
	})
	t.Run("one endpoint", func(t *testing.T) {
		fd := p.udp(t, v4)
		defer p.do(t, call{Op: "close", FD: fd})
		events := exitsOf(t, e, func() {
			for _, vip := range []string{"10.9.0.3:80", "10.9.0.4:80", "10.9.0.3:80", "10.1.0.1:7001", "10.9.0.4:80", "10.1.0.1:7001"} {
				if h := p.ask(t, fd, v4, vip); h.From.String() != vip || h.At != addrPort("10.1.0.1:7001") {
					t.Errorf("asked %s, heard %+v", vip, h)
				}
			}
		})
		if events[intent.Exit(FlowShared)] != 2 { // the second address, the endpoint itself
			t.Errorf("events %v", events)
		}
	})
}

func (e *Engine) hookOf(tb testing.TB, program string) *hook {
	tb.Helper()
	for _, h := range e.hooks {
		if h.program == program {
			return h
		}
	}
	tb.Fatalf("no program %s", program)
	return nil
}
