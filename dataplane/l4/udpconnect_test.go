package l4

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// connect() on a UDP socket decides each time, and what the socket asked before
// shows no more.
func TestUDPReconnect(t *testing.T) {
	e, p := mesh(t, udpDecisions()...)
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	talk := func(from, at string) {
		t.Helper()
		p.wantPeer(t, fd, from)
		p.mustDo(t, call{Op: "say", FD: fd})
		if h := p.hear(t, fd); h.From != addrPort(from) || h.At != addrPort(at) {
			t.Errorf("heard %+v, want %s by %s", h, from, at)
		}
	}
	p.connect(t, fd, "10.9.0.1:80", 0)
	talk("10.9.0.1:80", "10.1.0.1:7001")
	p.connect(t, fd, "10.9.0.4:80", 0) // without AF_UNSPEC
	talk("10.9.0.4:80", "10.1.0.2:7001")
	p.connect(t, fd, "10.1.0.2:7001", 0) // the endpoint itself
	talk("10.1.0.2:7001", "10.1.0.2:7001")
	p.connect(t, fd, "10.9.0.1:80", 0)
	p.connect(t, fd, "10.9.0.2:80", unix.ECONNREFUSED)
	if a := p.do(t, call{Op: "disconnect", FD: fd}); a.Errno != 0 {
		t.Fatalf("disconnect: %v", a.Errno)
	}
	// Unconnected, to what it was connected to, and to another address.
	for _, to := range []string{"10.9.0.1:80", "10.1.0.1:7001", "10.9.0.4:80"} {
		if h := p.ask(t, fd, v4, to); h.From != addrPort(to) {
			t.Errorf("asked %s, heard %+v", to, h)
		}
	}
	// Connected, with a datagram to another address between.
	p.connect(t, fd, "10.9.0.1:80", 0)
	p.say(t, fd, v4, "10.9.0.4:80")
	talk("10.9.0.1:80", "10.1.0.1:7001")
	audited(t, e)
}

// Replies show what was asked also where getpeername does not.
func TestHidePeerLeavesReplies(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	apply(t, e, trio(1))
	must(t, e.Enrol(p.Pod))
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	p.connect(t, fd, "10.9.0.1:80", 0)
	p.wantPeer(t, fd, "10.1.0.1:7001")
	p.mustDo(t, call{Op: "say", FD: fd})
	if h := p.hear(t, fd); h.From != addrPort("10.9.0.1:80") {
		t.Errorf("heard %+v", h)
	}
}

// A connected socket is ended when its endpoint leaves the service, and no other.
func TestConnectedSocketsOfARemovedEndpointEnd(t *testing.T) {
	n := newNode(t)
	p, far := n.pod(t, "default/client"), n.pod(t, "default/far")
	e := n.open(t, Options{})
	if e.ender == nil {
		t.Skipf("NOT RUN: %s: the kernel cannot end UDP sockets", kernel.SockDestroy.Name)
	}
	apply(t, e, trio(1, 2))
	must(t, e.Enrol(p.Pod))
	must(t, e.Enrol(far.Pod))
	type conn struct {
		on *pod
		fd int
		at netip.AddrPort
	}
	var conns []conn
	for i := range 24 {
		on, domain, vip := p, v4, "10.9.0.1:80"
		if i%3 == 1 {
			domain, vip = v6, "[fd00:9::1]:80"
		}
		if i%3 == 2 {
			on, domain, vip = far, v6, "[::ffff:10.9.0.1]:80"
		}
		fd := on.udp(t, domain)
		on.mustDo(t, call{Op: "connect", FD: fd, Domain: domain, To: addrPort(vip)})
		on.mustDo(t, call{Op: "say", FD: fd})
		conns = append(conns, conn{on, fd, on.hear(t, fd).At})
	}
	direct := p.udp(t, v4)
	p.connect(t, direct, "10.1.0.1:7001", 0)

	end := func(services ...*intent.Service) int {
		t.Helper()
		apply(t, e, services...)
		ended, err := e.EndStale(p.Netns, far.Netns)
		must(t, err)
		return len(ended)
	}
	check := func(gone func(conn) bool) int {
		t.Helper()
		n := 0
		for _, c := range conns {
			said := c.on.do(t, call{Op: "say", FD: c.fd}).Errno
			heard := c.on.do(t, call{Op: "hear", FD: c.fd}).Errno
			switch {
			case gone(c) && (said != unix.EDESTADDRREQ || heard != unix.ECONNABORTED),
				!gone(c) && (said != 0 || heard != 0):
				t.Errorf("socket connected to %v: send %v, receive %v", c.at, said, heard)
			case gone(c):
				n++
			}
		}
		return n
	}
	if n := end(trio(2, 1, 3)); n != 0 {
		t.Errorf("%d sockets were ended, whose endpoints are there", n)
	}
	check(func(conn) bool { return false })
	isFirst := func(c conn) bool { return c.at == addrPort("10.1.0.1:7001") || c.at == addrPort("[fd00:1::1]:7001") }
	n1 := end(trio(2, 3))
	if n := check(isFirst); n == 0 || n != n1 {
		t.Errorf("%d sockets were ended, %d were of the removed endpoint", n1, n)
	}
	conns = slices.DeleteFunc(conns, isFirst)
	n2 := end()
	if n := check(func(conn) bool { return true }); n != n2 {
		t.Errorf("%d sockets were ended when the service went, %d were left", n2, n)
	}
	if a := p.do(t, call{Op: "say", FD: direct}); a.Errno != 0 {
		t.Errorf("a socket that was not redirected was ended: %v", a.Errno)
	}
	if n := end(); n != 0 {
		t.Errorf("%d sockets were ended again", n)
	}
}
