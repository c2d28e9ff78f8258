package probe

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// What an application asked is seen although a program of an ancestor changes it,
// and where the kernel went is seen although the application cannot tell.
func TestRewrittenConnection(t *testing.T) {
	for name, c := range map[string]struct{ asked, peer, local netip.Addr }{
		"ipv4":      {vip4, server4, client4},
		"ipv6":      {vip6, server6, client6},
		"v4-mapped": {mapped(vip4), server4, client4},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			g.rewriter()
			g.listen(realPort)
			p := g.open(Options{})
			said := g.run(visit(at(c.asked, vipPort)))
			l := settle(t, p)
			lossless(t, l)
			got := only(t, l, "client", RoleActive)
			if len(said) != 1 || got.Cookie != said[0].Cookie || got.Local != said[0].Local {
				t.Errorf("line has cookie %d, local %s; the client said %+v", got.Cookie, got.Local, said)
			}
			peer := at(c.peer, realPort)
			if got.Asked != at(c.asked, vipPort) || got.Peer != peer || got.Local.Addr() != c.local {
				t.Errorf("asked %s, local %s, peer %s; want asked %s, peer %s",
					got.Asked, got.Local, got.Peer, at(c.asked, vipPort), peer)
			}
			if got.State != StateClosed || got.Errno != 0 {
				t.Errorf("state %s (%v), want closed in order", got.State, got.Errno)
			}
			if got.AskedAt == 0 || got.AskedAt > got.SynSentAt || got.SynSentAt > got.EstablishedAt ||
				got.EstablishedAt > got.ClosedAt {
				t.Errorf("times out of order: %+v", got)
			}
			passive := only(t, l, "server", RolePassive)
			if passive.Local != peer || passive.Peer != got.Local || passive.Cookie == 0 || passive.Asked.IsValid() {
				t.Errorf("server's line %+v, want local %s, peer %s", passive, peer, got.Local)
			}
			for _, side := range []Side{SidePod, SideHost} {
				if dst := got.WireDst(side); len(dst) != 1 || dst[0] != peer {
					t.Errorf("SYNs at the %s's end went to %v, want %s", side, dst, peer)
				}
			}
			if len(l.Stray) != 0 || len(l.Before) != 0 {
				t.Errorf("stray %v, before %v; want none", l.Stray, l.Before)
			}
		})
	}
}

func TestEndings(t *testing.T) {
	open := at(server4, realPort)
	for name, c := range map[string]struct {
		steps  []step
		client State
		errno  unix.Errno
		server State
	}{
		"closed in order": {visit(open), StateClosed, 0, StateClosed},
		"reset by client": {
			[]step{{Do: "socket4"}, {Do: "connect", To: open}, {Do: "reset"}}, StateReset, 0, StateReset,
		},
		"refused by the peer": {visit(at(server4, deadPort)), StateFailed, unix.ECONNREFUSED, ""},
		"disconnected":        {[]step{{Do: "socket4"}, {Do: "connect", To: open}, {Do: "unspec"}, {Do: "close"}}, StateReset, 0, StateReset},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			g.listen(realPort)
			p := g.open(Options{})
			said := g.run(c.steps)
			l := settle(t, p)
			lossless(t, l)
			got := only(t, l, "client", RoleActive)
			if got.State != c.client || got.Errno != c.errno || got.Cookie != said[0].Cookie {
				t.Errorf("client's line is %s (%v), want %s (%v)", got.State, got.Errno, c.client, c.errno)
			}
			if !got.Local.IsValid() || got.Peer != c.steps[1].To {
				t.Errorf("client's line: local %s, peer %s", got.Local, got.Peer)
			}
			if len(got.Wire) != 2 {
				t.Errorf("SYNs %+v, want one at each end", got.Wire)
			}
			if c.server == "" {
				if n := len(linesOf(l, "server", RolePassive)); n != 0 {
					t.Errorf("%d lines of the server, want none", n)
				}
				return
			}
			if passive := only(t, l, "server", RolePassive); passive.State != c.server {
				t.Errorf("server's line is %s (%v), want %s", passive.State, passive.Errno, c.server)
			}
		})
	}
}

// One socket, four attempts: refused, connected, and twice more after it was
// disconnected. Each has a line, in order, all with one cookie.
func TestReusedSocket(t *testing.T) {
	g := newGround(t)
	g.listen(realPort)
	p := g.open(Options{})
	open, dead := at(server4, realPort), at(server4, deadPort)
	g.run([]step{
		{Do: "socket4"},
		{Do: "connect", To: dead},
		{Do: "connect", To: open},
		{Do: "connect", To: open}, // EISCONN: asks nothing anew
		{Do: "unspec"},
		{Do: "connect", To: dead},
		{Do: "connect", To: open},
		{Do: "close"},
	})
	l := settle(t, p)
	lossless(t, l)
	lines := linesOf(l, "client", RoleActive)
	want := []struct {
		asked netip.AddrPort
		state State
	}{{dead, StateFailed}, {open, StateReset}, {dead, StateFailed}, {open, StateClosed}}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d: %+v", len(lines), len(want), lines)
	}
	for i, w := range want {
		if lines[i].Asked != w.asked || lines[i].State != w.state || lines[i].Cookie != lines[0].Cookie {
			t.Errorf("attempt %d: asked %s, %s, cookie %d; want %s, %s", i, lines[i].Asked, lines[i].State,
				lines[i].Cookie, w.asked, w.state)
		}
	}
}

// A socket that was open before the watch is not judged; what it does later is.
func TestBefore(t *testing.T) {
	g := newGround(t)
	g.listen(realPort)
	open := at(server4, realPort)
	old := g.start([]step{
		{Do: "socket4"},
		{Do: "connect", To: open},
		{Do: "wait"},
		{Do: "unspec"},
		{Do: "connect", To: open},
		{Do: "close"},
	})
	old.next() // connected
	old.next() // waits
	p := g.open(Options{})
	old.goOn()
	old.finish()
	l := settle(t, p)
	lossless(t, l)
	got := only(t, l, "client", RoleActive)
	if got.Asked != open || got.State != StateClosed || len(got.Wire) != 2 || got.Wire[0].Src != got.Local {
		t.Errorf("the second connection is %+v", got)
	}
	roles := map[string]int{}
	for _, b := range l.Before {
		roles[b.Pod]++
		if b.Role != RoleUnknown || b.State != StateReset || b.Asked.IsValid() {
			t.Errorf("before: %+v", b)
		}
	}
	if roles["client"] != 1 || roles["server"] != 1 {
		t.Errorf("before %v, want both ends of the old connection", roles)
	}
}

// What a program refuses is asked, and no more; the line is over when the socket
// is let go.
func TestAskedOnly(t *testing.T) {
	g := newGround(t)
	p := g.open(Options{})
	unreachable := at(netip.MustParseAddr("203.0.113.1"), vipPort) // no route
	g.run(visit(unreachable))
	l, err := p.Take(t.Context())
	must(t, err)
	lossless(t, l)
	if got := only(t, l, "client", RoleActive); got.Asked != unreachable || got.State != StateAsked || got.Peer.IsValid() {
		t.Errorf("line is %+v", got)
	}
	if l, err = p.Take(t.Context()); err != nil || len(l.Lines) != 0 {
		t.Errorf("a second Take has %d lines, %v; want none", len(l.Lines), err)
	}
}

func TestUDP(t *testing.T) {
	g := newGround(t)
	p := g.open(Options{UDP: true})
	one, two := at(server4, 53), at(vip4, 53)
	steps := []step{
		{Do: "udp4"},
		{Do: "send", To: one},
		{Do: "send", To: one},
		{Do: "send", To: two},
		{Do: "connect", To: one},
		{Do: "close"},
	}
	g.run(steps)
	l := settle(t, p)
	lossless(t, l)
	var got []Line
	for _, line := range linesOf(l, "client", RoleActive) {
		got = append(got, Line{Protocol: line.Protocol, Asked: line.Asked, Sends: line.Sends})
	}
	want := []Line{
		{Protocol: unix.IPPROTO_UDP, Asked: one, Sends: 2},
		{Protocol: unix.IPPROTO_UDP, Asked: two, Sends: 1},
		{Protocol: unix.IPPROTO_UDP, Asked: one},
	}
	same(t, got, want)
}

func TestRemove(t *testing.T) {
	g := newGround(t)
	g.listen(realPort)
	p := g.open(Options{})
	steps := visit(at(server4, realPort))
	g.run(steps)
	must(t, p.Remove("client"))
	g.run(steps) // unseen
	must(t, p.Add(g.clientTarget()))
	g.run(steps)
	l := settle(t, p)
	lossless(t, l)
	if n := len(linesOf(l, "client", RoleActive)); n != 2 {
		t.Errorf("%d lines, want 2: of the three visits the second was not watched", n)
	}
	if err := p.Remove("nobody"); err == nil {
		t.Error("removed a pod that is not watched")
	}
	if err := p.Add(g.clientTarget()); err == nil {
		t.Error("added a pod twice")
	}
}
