package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func endsOf(local, peer string) ends {
	return ends{"pod", netip.MustParseAddrPort(local), netip.MustParseAddrPort(peer)}
}

// Calls with a socket and calls with a packet are of one connection; a socket or
// addresses that come again are another's.
func TestJoin(t *testing.T) {
	client, server := endsOf("10.0.0.1:4000", "10.0.0.2:80"), endsOf("10.0.0.2:80", "10.0.0.1:4000")
	a := newAttempts()
	at := int64(0)
	see := func(function string, sock, cookie uint64, flags uint8, e ends) {
		at++
		a.add(call{Call: Call{at, function}, pod: "pod", sock: sock, cookie: cookie, flags: flags, ends: e})
	}
	for range 2 { // the same ports and sockets, one connection after the other
		see(beginning, 7, 0, 0, endsOf("0.0.0.0:0", "0.0.0.0:0"))
		see("tcp_connect", 7, 5, 0, client)
		see("tcp_v4_rcv", 0, 0, flagSYN, server)
		see("tcp_v4_rcv", 0, 0, flagSYN|flagACK, client)
		see(accept, 9, 0, 0, server)
	}
	for range 2 {
		if got := names(a.take(5, ends{pod: "pod"})); !slices.Equal(got, []string{beginning, "tcp_connect", "tcp_v4_rcv"}) {
			t.Errorf("client: %v", got)
		}
		if got := names(a.take(0, server)); !slices.Equal(got, []string{"tcp_v4_rcv", accept}) {
			t.Errorf("server: %v", got)
		}
	}
	if len(a.all)+len(a.byEnds)+len(a.bySock) != 0 {
		t.Errorf("left: %+v", a)
	}
	see(beginning, 7, 0, 0, client)
	a.expire(at + 1)
	if got := a.take(0, client); got != nil {
		t.Errorf("it expired, and is told: %v", got)
	}
}

// A glob's functions are capped and counted; names that are two functions' are not
// chosen.
func TestChooseIsCapped(t *testing.T) {
	names := map[string]int{"tcp_twice": 2, "udp_sendmsg": 1}
	for i := range MaxFunctions + 7 {
		names[fmt.Sprintf("tcp_%04d", i)] = 1
	}
	c := choose(names, []string{"tcp_*"})
	if c.Matched != MaxFunctions+8 || c.Over != 7 || c.Twice != 1 || len(c.Names) != MaxFunctions ||
		c.Names[0] != "tcp_0000" || slices.Contains(c.Names, "tcp_twice") {
		t.Errorf("matched %d, over %d, twice %d, chosen %d", c.Matched, c.Over, c.Twice, len(c.Names))
	}
	if _, err := Choose([]string{"[a"}); err == nil {
		t.Error("a bad glob is taken")
	}
}

func TestNames(t *testing.T) {
	n := &namer{reasons: map[uint32]string{2: "NOT_SPECIFIED"}, symbols: []symbol{{16, "a"}, {32, "b"}}}
	if n.reason(2) != "NOT_SPECIFIED" || n.reason(0x20003) != "0x20003" {
		t.Errorf("%s, %s", n.reason(2), n.reason(0x20003))
	}
	if n.function(31) != "a" || n.function(40) != "b" || n.function(3) != "" {
		t.Errorf("%s, %s, %s", n.function(31), n.function(40), n.function(3))
	}
	if (&namer{symbols: []symbol{{0, "a"}}}).function(5) != "" {
		t.Error("a name without addresses")
	}
}
