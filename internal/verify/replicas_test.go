package verify

import (
	"net/http"
	"net/netip"
	"slices"
	"testing"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

var (
	first  = netip.MustParseAddrPort("10.0.0.9:15029")
	second = netip.MustParseAddrPort("10.0.1.9:15029")
)

// handedOver is the evidence of two connections with a request each that a waypoint of
// two replicas took, right in all: one at each of the addresses.
func handedOver(at ...netip.AddrPort) evidence {
	want := scenario.Want{
		Outcome: scenario.Connected, Via: scenario.ViaWaypoint, Waypoint: "pair", Port: 8080,
		Split: map[string]float64{"v1": 1}, Replicas: []string{"w1", "w2"},
	}
	le := &loadEvidence{asked: vip, load: scenario.Load{
		From: []string{"client"}, To: scenario.Target{Service: "s", Port: 80, Family: scenario.IPv4},
		Connections: len(at), Requests: 1, Want: want,
	}}
	e := evidence{
		loads: []*loadEvidence{le}, known: map[uint64]bool{}, entering: map[netip.AddrPort]bool{},
		pods:         map[string]scenario.PodHandle{"v1": {Name: "v1", Addresses: []netip.Addr{server.Addr()}}},
		replicas:     map[string]map[netip.Addr]string{"pair": {first.Addr(): "w1", second.Addr(): "w2"}},
		handOffPorts: map[string][]uint16{"pair": {15029}},
		forwarded:    tally{by: map[string]uint64{"s": uint64(len(at))}},
	}
	served := map[uint64]int{}
	var lines []probe.Line
	for i, to := range at {
		id, from := uint64(i+1), netip.AddrPortFrom(local.Addr(), local.Port()+uint16(i))
		le.conns = append(le.conns, clientConn{"client", traffic.Conn{
			Role: traffic.Client, ID: id, Cookie: 100 + id, Asked: vip, Local: from, Peer: vip, Start: 100, Connected: 110, End: 120,
			Requests: []traffic.Request{{Status: http.StatusOK, Server: "v1", Start: 111, End: 119}},
		}})
		e.known[id], e.entering[from], served[id] = true, true, 1
		syn := probe.SYN{Side: probe.SidePod, Direction: probe.Out, Src: from, Dst: to, Count: 1}
		arrived := syn
		arrived.Direction = probe.In
		lines = append(lines,
			probe.Line{Pod: "client", Cookie: 100 + id, Role: probe.RoleActive, Asked: vip, Local: from, Peer: to, SynSentAt: 105, Wire: []probe.SYN{syn}},
			probe.Line{
				Pod: e.replicas["pair"][to.Addr()], Cookie: 200 + id, Role: probe.RolePassive, Local: to, Peer: from, Wire: []probe.SYN{arrived},
			})
	}
	e.served = map[uint64][]servedConn{0: {{"v1", traffic.Conn{
		Role: traffic.Server, Cookie: 300, Local: server, Peer: netip.AddrPortFrom(first.Addr(), 50000), Served: served,
	}}}}
	lines = append(lines, probe.Line{Pod: "v1", Cookie: 300, Role: probe.RolePassive, Local: server, Peer: e.served[0][0].Peer})
	e.ledger = bySocket(probe.Ledger{Lines: lines, Providers: seeing})
	return e
}

// TestEachReplicaIsUsed: a replica that is to take connections and takes none fails, and
// nothing else does.
func TestEachReplicaIsUsed(t *testing.T) {
	named := func(r report.Result) (names []string) {
		for _, c := range r.Failed() {
			names = append(names, c.Name)
		}
		return names
	}
	if r := verdictOf(handedOver(first, second)); r.Verdict != report.Pass || r.Connections != 2 {
		t.Fatalf("both: %d connections judged, %s: %+v", r.Connections, r.Verdict, r.Failed())
	}
	for unused, at := range map[string]netip.AddrPort{"w1": second, "w2": first} {
		r := verdictOf(handedOver(at, at))
		if r.Verdict != report.Fail || !slices.Equal(named(r), []string{"s:80/IPv4: some to replica " + unused}) {
			t.Errorf("nothing to %s: %s: %+v", unused, r.Verdict, r.Failed())
		}
		free := handedOver(at, at)
		free.loads[0].load.Want.Replicas = nil
		if r := verdictOf(free); r.Verdict != report.Pass {
			t.Errorf("nothing to %s, where it need not: %s: %+v", unused, r.Verdict, r.Failed())
		}
	}
	// The client's socket alone names the second: its own kernel took nothing.
	unheard := handedOver(first, second)
	delete(unheard.ledger.passive, socket{"w2", 202})
	if r := verdictOf(unheard); !slices.Contains(named(r), "s:80/IPv4: some to replica w2") {
		t.Errorf("a connection that never came: %s: %+v", r.Verdict, r.Failed())
	}
	// What the kernel did not see blames nobody.
	unseen := handedOver(first, first)
	unseen.ledger.Lost.Missed = 1
	if r := verdictOf(unseen); r.Verdict != report.Inconclusive {
		t.Errorf("a ledger with holes: %s: %+v", r.Verdict, r.Failed())
	}
}
