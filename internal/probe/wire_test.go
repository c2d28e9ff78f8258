package probe

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

func same[T any](tb testing.TB, got, want T) {
	tb.Helper()
	opts := cmp.Options{
		cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{}), cmpopts.EquateEmpty(),
	}
	if d := cmp.Diff(want, got, opts); d != "" {
		tb.Errorf("-want +got:\n%s", d)
	}
}

// syns sums the SYNs out of the client by end and destination.
func syns(l Ledger) map[Side]map[netip.AddrPort]uint64 {
	sums := map[Side]map[netip.AddrPort]uint64{}
	for _, w := range l.Wire {
		if w.Direction != Out || w.SYNs == 0 {
			continue
		}
		if sums[w.Side] == nil {
			sums[w.Side] = map[netip.AddrPort]uint64{}
		}
		sums[w.Side][w.Dst] += w.SYNs
	}
	return sums
}

func TestWireCounts(t *testing.T) {
	const n = 200
	for name, c := range map[string]struct {
		vip, real netip.Addr
		rewrite   bool
	}{
		"rewritten ipv4": {vip4, server4, true},
		"rewritten ipv6": {vip6, server6, true},
		// The negative control: without a mesh each connection leaks.
		"not rewritten": {vip4, server4, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			dst := at(c.vip, vipPort)
			if c.rewrite {
				g.rewriter()
				dst = at(c.real, realPort)
			}
			g.listen(int(dst.Port()))
			l := g.judged(Options{}, times(n, visit(at(c.vip, vipPort))))
			lossless(t, l)
			want := map[Side]map[netip.AddrPort]uint64{SidePod: {dst: n}, SideHost: {dst: n}}
			same(t, syns(l), want)
			leaks := l.Leaks("client", at(c.vip, vipPort))
			if c.rewrite {
				same(t, leaks, nil)
				return
			}
			if len(leaks) != 2 || leaks[0].SYNs != n || leaks[1].SYNs != n || leaks[0].Packets <= n {
				t.Errorf("leaks %+v, want %d SYNs at both ends", leaks, n)
			}
			same(t, l.Leaks("client", at(c.vip, 0)), leaks)
			same(t, l.Leaks("client", at(c.vip, vipPort+1)), nil)
			same(t, l.Leaks("server", at(c.vip, vipPort)), nil)
		})
	}
}

// Replies do not take an entry per port, and are counted all the same.
func TestWireRepliesShareAnEntry(t *testing.T) {
	const n = 100
	g := newGround(t)
	g.listen(realPort)
	p := g.open(Options{WireEntries: 32})
	g.run(times(n, visit(at(server4, realPort))))
	l := settle(t, p)
	lossless(t, l)
	replies := map[Side]uint64{}
	for _, w := range l.Wire {
		if w.Direction == In && w.Dst == at(client4, 0) {
			replies[w.Side] += w.Packets
		}
	}
	if replies[SidePod] < 2*n || replies[SidePod] != replies[SideHost] {
		t.Errorf("replies %v, want the same at both ends, at least %d", replies, 2*n)
	}
}

// A table that is too small for the destinations is a loss, and said.
func TestWireTableFull(t *testing.T) {
	g := newGround(t)
	p := g.open(Options{WireEntries: 2})
	for i := range 8 {
		g.run(visit(at(server4, uint16(deadPort+i))))
	}
	l := settle(t, p)
	if l.Lost.Wire == 0 || l.Lost.Total() == 0 {
		t.Errorf("%s; want packets lost", l.Lost)
	}
}

// Nor do UDP datagrams to the ports of clients.
func TestWireDatagramsShareAnEntry(t *testing.T) {
	const n = 100
	g := newGround(t)
	p := g.open(Options{WireEntries: 32})
	steps := []step{{Do: "udp4"}}
	for i := range n {
		steps = append(steps, step{Do: "send", To: at(server4, uint16(40000+i))})
	}
	g.run(append(steps, step{Do: "close"}))
	l := settle(t, p)
	lossless(t, l)
	sent := map[Side]uint64{}
	for _, w := range l.Wire {
		if w.Direction == Out && w.Dst == at(server4, 0) && w.Protocol == unix.IPPROTO_UDP {
			sent[w.Side] += w.Packets
		}
	}
	same(t, sent, map[Side]uint64{SidePod: n, SideHost: n})
}

// But for the destinations that are named: they have their own entry, whatever
// the port, and only there.
func TestWireNamedDatagrams(t *testing.T) {
	const n, port = 20, 40000
	g := newGround(t)
	named := []netip.AddrPort{at(server4, port), at(server6, port+1)}
	p := g.open(Options{Named: named})
	steps := []step{{Do: "udp4"}}
	for range n {
		steps = append(steps, step{Do: "send", To: at(server4, port)}, step{Do: "send", To: at(server4, port+1)},
			step{Do: "send", To: at(vip4, port)})
	}
	g.run(append(steps, step{Do: "close"}))
	l := settle(t, p)
	lossless(t, l)
	sent := map[netip.AddrPort]uint64{}
	for _, w := range l.Wire {
		if w.Direction == Out && w.Side == SidePod && w.Protocol == unix.IPPROTO_UDP {
			sent[w.Dst] += w.Packets
		}
	}
	same(t, sent, map[netip.AddrPort]uint64{at(server4, port): n, at(server4, 0): n, at(vip4, 0): n})
}
