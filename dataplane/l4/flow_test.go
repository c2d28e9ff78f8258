package l4

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// A connected socket hears nobody but the endpoint that connect() chose, so what it
// sends to the service by name goes there as well.
func TestSendtoOfAConnectedSocket(t *testing.T) {
	_, p := mesh(t, trio(1, 2, 3, 4))
	for _, c := range []struct {
		domain int
		to     string
	}{{v4, "10.9.0.1:80"}, {v6, "[fd00:9::1]:80"}, {v6, "[::ffff:10.9.0.1]:80"}} {
		t.Run(c.to, func(t *testing.T) {
			for range 8 { // another choice would be the same one with probability 4^-8
				fd := p.udp(t, c.domain)
				p.mustDo(t, call{Op: "connect", FD: fd, Domain: c.domain, To: addrPort(c.to)})
				p.mustDo(t, call{Op: "say", FD: fd})
				first := p.hear(t, fd)
				if h := p.ask(t, fd, c.domain, c.to); h.At != first.At || h.From != addrPort(c.to) {
					t.Errorf("heard %+v after %+v", h, first)
				}
				p.do(t, call{Op: "close", FD: fd})
			}
		})
	}
}

// A generation is never given again, also not by the process that takes over while
// no frontend has slots: flows tell sets apart by it.
func TestFlowsOfAnEarlierProcess(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	h := n.pinned(bpffs(t))
	e := mustOpen(t, h, Options{})
	apply(t, e, trio(1))
	must(t, e.Enrol(p.Pod))
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	p.ask(t, fd, v4, "10.9.0.1:80")
	apply(t, e, trio()) // no endpoint for a while
	must(t, e.Close())
	e = mustOpen(t, h, Options{})
	defer func() { must(t, e.Remove()) }()
	apply(t, e, trio(2))
	if got := p.ask(t, fd, v4, "10.9.0.1:80"); got.At != addrPort("10.1.0.2:7001") {
		t.Errorf("heard %+v, want the endpoint that is there", got)
	}
}

// Whoever sends to an endpoint itself hears that endpoint, whatever the socket asked
// before: while the service had it, after it left, after the pod left the mesh.
func TestDirectDatagramsShowTheSender(t *testing.T) {
	direct := func(t *testing.T, p *pod, fd int) {
		t.Helper()
		if got := p.ask(t, fd, v4, "10.1.0.1:7001"); got.From != addrPort("10.1.0.1:7001") {
			t.Errorf("asked 10.1.0.1 itself, the reply shows %v", got.From)
		}
	}
	connected := func(t *testing.T, p *pod, fd int) {
		t.Helper()
		p.connect(t, fd, "10.1.0.1:7001", 0)
		p.wantPeer(t, fd, "10.1.0.1:7001")
		p.mustDo(t, call{Op: "say", FD: fd})
		if got := p.hear(t, fd); got.From != addrPort("10.1.0.1:7001") {
			t.Errorf("connected to 10.1.0.1 itself, the reply shows %v", got.From)
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, e *Engine, p *pod, fd int)
	}{
		{"in the service", func(*testing.T, *Engine, *pod, int) {}},
		{"endpoint has left", func(t *testing.T, e *Engine, p *pod, fd int) {
			apply(t, e, trio(2))
			if got := p.ask(t, fd, v4, "10.9.0.1:80"); got.At != addrPort("10.1.0.2:7001") {
				t.Errorf("heard %+v", got)
			}
		}},
		{"service has left", func(t *testing.T, e *Engine, _ *pod, _ int) { apply(t, e) }},
		{"pod has left", func(t *testing.T, e *Engine, p *pod, _ int) { must(t, e.Leave(p.Pod)) }},
	} {
		for name, act := range map[string]func(*testing.T, *pod, int){"sendto": direct, "connect": connected} {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				e, p := mesh(t, trio(1))
				fd := p.udp(t, v4)
				defer p.do(t, call{Op: "close", FD: fd})
				p.ask(t, fd, v4, "10.9.0.1:80")
				c.change(t, e, p, fd)
				act(t, p, fd)
			})
		}
	}
}

// A reply that waits while the socket is connected anew, is disconnected, or is refused
// another connection, shows the address asked all the same; and no longer than it may.
func TestReplyThatWaitsForASocketThatConnectsAgain(t *testing.T) {
	type by struct{ vip, other, refused, endpoint string }
	type state int
	const (
		elsewhere    state = iota
		disconnected       // from now on it is heard whom it sends to
		connected          // as before
	)
	all := map[int]by{
		v4: {"10.9.0.1:80", "10.1.0.9:7001", "10.9.0.2:80", "10.1.0.1:7001"},
		v6: {"[fd00:9::1]:80", "[fd00:1::9]:7001", "[fd00:9::2]:80", "[fd00:1::1]:7001"},
	}
	for name, c := range map[string]struct {
		do    func(t *testing.T, e *Engine, p *pod, q call, b by)
		after state
	}{
		"connected elsewhere": {func(t *testing.T, _ *Engine, p *pod, q call, b by) {
			q.Op, q.To = "connect", addrPort(b.other)
			p.mustDo(t, q)
		}, elsewhere},
		"connected elsewhere by a pod that has left": {func(t *testing.T, e *Engine, p *pod, q call, b by) {
			must(t, e.Leave(p.Pod))
			q.Op, q.To = "connect", addrPort(b.other)
			p.mustDo(t, q)
		}, elsewhere},
		"disconnected": {func(t *testing.T, _ *Engine, p *pod, q call, _ by) {
			q.Op = "disconnect"
			p.mustDo(t, q)
		}, disconnected},
		"refused": {func(t *testing.T, _ *Engine, p *pod, q call, b by) {
			q.Op, q.To = "connect", addrPort(b.refused)
			if a := p.do(t, q); a.Errno != unix.ECONNREFUSED {
				t.Errorf("errno %v, want refused", a.Errno)
			}
		}, connected},
	} {
		for domain, b := range all {
			t.Run(name+"/"+b.vip, func(t *testing.T) {
				none := udpService("none", []string{"10.9.0.2", "fd00:9::2"})
				e, p := mesh(t, trio(1), none)
				q := call{FD: p.udp(t, domain), Domain: domain}
				p.mustDo(t, call{Op: "connect", FD: q.FD, Domain: domain, To: addrPort(b.vip)})
				p.mustDo(t, call{Op: "say", FD: q.FD})
				p.mustDo(t, call{Op: "await", FD: q.FD})
				c.do(t, e, p, q, b)
				if h := p.hear(t, q.FD); h.From != addrPort(b.vip) {
					t.Errorf("heard %+v, want it from %s", h, b.vip)
				}
				switch c.after {
				case connected:
					stillConnected(t, e, p, q.FD, b.vip, none)
				case disconnected:
					if h := p.ask(t, q.FD, domain, b.endpoint); h.From != addrPort(b.endpoint) {
						t.Errorf("asked the endpoint itself, heard %+v", h)
					}
				}
			})
		}
	}
}

// stillConnected: what a connect was refused for is as if it had not been tried.
func stillConnected(t *testing.T, e *Engine, p *pod, fd int, vip string, none *intent.Service) {
	t.Helper()
	p.wantPeer(t, fd, vip)
	p.mustDo(t, call{Op: "say", FD: fd})
	if h := p.hear(t, fd); h.From != addrPort(vip) {
		t.Errorf("after a refused connect: heard %+v, want it from %s", h, vip)
	}
	if e.ender == nil {
		return
	}
	apply(t, e, trio(2), none)
	ended, err := e.EndStale(p.Netns)
	must(t, err)
	if len(ended) != 1 {
		t.Errorf("%d sockets were ended, want the one whose endpoint has left", len(ended))
	}
}

// A pod that leaves the mesh still hears the service answer what it asked before.
func TestRepliesOnTheirWayOfAPodThatLeaves(t *testing.T) {
	e, p := mesh(t, trio(1))
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	p.say(t, fd, v4, "10.9.0.1:80")
	must(t, e.Leave(p.Pod))
	if got := p.hear(t, fd); got.From != addrPort("10.9.0.1:80") {
		t.Errorf("heard %+v", got)
	}
}

// A connect() that was decided before an endpoint left and is through only
// afterwards does not stay connected to it. The kernel decides and connects in one
// system call; here it is two, with the change in between.
func TestConnectUnderWayWhenTheEndpointLeaves(t *testing.T) {
	e, p := mesh(t, trio(1))
	if e.ender == nil {
		t.Skipf("NOT RUN: %s: the kernel cannot end UDP sockets", kernel.SockDestroy.Name)
	}
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	p.mustDo(t, call{Op: "bind", FD: fd, Domain: v4, To: addrPort("10.2.0.1:4711")})
	p.connect(t, fd, "10.9.0.1:80", 0)
	p.mustDo(t, call{Op: "disconnect", FD: fd})
	apply(t, e, trio(2))
	look := func(want int) {
		t.Helper()
		ended, err := e.EndStale(p.Netns)
		must(t, err)
		if len(ended) != want {
			t.Errorf("%d sockets were ended, want %d", len(ended), want)
		}
	}
	for range 3 {
		look(0) // it is pending, and the engine does not forget to look
	}
	must(t, e.hookOf(t, meshProgMeshConnect4).link.Close()) // it has run
	p.connect(t, fd, "10.1.0.1:7001", 0)
	look(1)
	if a := p.do(t, call{Op: "hear", FD: fd}); a.Errno != unix.ECONNABORTED {
		t.Errorf("receive: %v", a.Errno)
	}
}

// A socket that was disconnected cannot keep the engine looking for ever.
func TestDisconnectedSocketIsNotAwaitedForEver(t *testing.T) {
	e, p := mesh(t, trio(1))
	if e.ender == nil {
		t.Skipf("NOT RUN: %s: the kernel cannot end UDP sockets", kernel.SockDestroy.Name)
	}
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	p.mustDo(t, call{Op: "bind", FD: fd, Domain: v4, To: addrPort("10.2.0.1:4711")})
	p.connect(t, fd, "10.9.0.1:80", 0)
	p.mustDo(t, call{Op: "disconnect", FD: fd})
	apply(t, e)
	calls := 0
	for ; e.staleUDP > 0 && calls < 100; calls++ {
		_, err := e.EndStale(p.Netns)
		must(t, err)
	}
	if calls < 3 || calls > 20 {
		t.Errorf("the engine looked %d times", calls)
	}
}

// The size of lates follows from the limits: it is what all pods together have.
func TestLateFlowsAreLimited(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{Limits: Limits{LateFlows: 512}})
	if have := e.coll.Maps[meshMapLates].MaxEntries(); have != 512 {
		t.Errorf("map %s has room for %d", meshMapLates, have)
	}
	if u := usageOf(t, e, meshMapLates); u.Bytes == 0 {
		t.Errorf("no memory is reported: %+v", u)
	}
	apply(t, e, []*intent.Service{trio(1)}...)
}
