package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

var (
	vip    = netip.MustParseAddrPort("10.96.0.1:80")
	server = netip.MustParseAddrPort("10.0.1.2:8080")
	local  = netip.MustParseAddrPort("10.0.0.2:40000")
)

// good is the evidence of one redirected connection that is right in all.
func good() evidence {
	load := scenario.Load{
		From: []string{"client"}, To: scenario.Target{Service: "s", Port: 80, Family: scenario.IPv4}, Connections: 1,
		Want: scenario.Want{Outcome: scenario.Connected, Via: scenario.ViaSocket, Port: 8080, Split: map[string]float64{"v1": 1}},
	}
	client := traffic.Conn{
		Role: traffic.Client, ID: 7, Cookie: 70, Asked: vip, Local: local, Peer: vip,
		Server: "v1", Sent: 64, Received: 64, Start: 100, Connected: 110, End: 120,
	}
	served := traffic.Conn{Role: traffic.Server, ID: 7, Cookie: 71, Local: server, Peer: local}
	syn := probe.SYN{Side: probe.SidePod, Direction: probe.Out, Src: local, Dst: server, Count: 1}
	arrived := syn
	arrived.Direction = probe.In
	return evidence{
		loads:  []*loadEvidence{{load: load, asked: vip, conns: []clientConn{{"client", client}}}},
		served: map[uint64][]servedConn{7: {{"v1", served}}},
		known:  map[uint64]bool{7: true},
		pods:   map[string]scenario.PodHandle{"v1": {Name: "v1", Addresses: []netip.Addr{server.Addr()}}},
		ledger: bySocket(probe.Ledger{
			Lines: []probe.Line{
				{Pod: "client", Cookie: 70, Role: probe.RoleActive, Asked: vip, Local: local, Peer: server, SynSentAt: 105, Wire: []probe.SYN{syn}},
				{Pod: "v1", Cookie: 71, Role: probe.RolePassive, Local: server, Peer: local, Wire: []probe.SYN{arrived}},
			},
			Wire:      []probe.WireCount{{Pod: "client", Side: probe.SidePod, Direction: probe.Out, Dst: server, Packets: 5, SYNs: 1}},
			Providers: seeing,
		}),
	}
}

var seeing = map[probe.Kind]probe.Provider{
	probe.Asked: {Name: "cgroup"}, probe.Established: {Name: "tp_btf"}, probe.WireSyn: {Name: "tcx"},
}

func verdictOf(e evidence) report.Result {
	r := report.Result{Verdict: report.Pass}
	n, checks := e.judge()
	r.Connections = n
	r.Add(checks...)
	return r
}

func TestGoodPasses(t *testing.T) {
	if r := verdictOf(good()); r.Verdict != report.Pass || r.Connections != 1 {
		t.Fatalf("%d connections judged, %s: %+v", r.Connections, r.Verdict, r.Failed())
	}
}

// TestEachRuleRefuses breaks one fact at a time: exactly the named check must
// not pass.
func TestEachRuleRefuses(t *testing.T) {
	other := netip.MustParseAddrPort("10.0.1.9:8080")
	client := func(e *evidence) *traffic.Conn { return &e.loads[0].conns[0].Conn }
	line := func(e *evidence) *probe.Line { return &e.ledger.active[socket{"client", 70}][0] }
	cases := []struct {
		check  string
		break1 func(e *evidence)
	}{
		{"the application saw what is declared", func(e *evidence) { client(e).Received = 63 }},
		{"the application saw what is declared", func(e *evidence) { client(e).Errno, client(e).Op = "ECONNRESET", "read" }},
		{"the application saw what is declared", func(e *evidence) {
			e.loads[0].load.Want.Split = map[string]float64{"v2": 1}
		}},
		{"client and kernel agree on what was asked", func(e *evidence) { line(e).Asked = other }},
		{"client and kernel agree on what was asked", func(e *evidence) { delete(e.ledger.active, socket{"client", 70}) }},
		{"client and server agree", func(e *evidence) { e.served[7][0].pod = "v2" }},
		{"client and server agree", func(e *evidence) { delete(e.served, 7) }},
		{"client and server agree", func(e *evidence) { e.loads[0].load.Want.Port = 9090 }},
		{"getpeername answers the asked address", func(e *evidence) { client(e).Peer = server }},
		{"the server sees the client's own address", func(e *evidence) { e.served[7][0].Peer = other }},
		{"the socket's peer is as declared", func(e *evidence) { line(e).Peer = other }},
		{"the server's kernel saw it arrive", func(e *evidence) { delete(e.ledger.passive, socket{"v1", 71}) }},
		{"the first packet went as declared", func(e *evidence) { line(e).Wire[0].Dst = other }},
		{"the server's kernel saw it arrive", func(e *evidence) { e.ledger.passive[socket{"v1", 71}][0].Wire[0].Dst = other }},
		{"the way is as declared", func(e *evidence) { e.loads[0].load.Want.Via = scenario.ViaNone }},
		{"the way is as declared", func(e *evidence) {
			e.loads[0].load.Want.Via = scenario.ViaDNAT
			e.served[7][0].Local = vip
		}},
		{"every connection that servers saw was made by a client", func(e *evidence) {
			e.served[0] = []servedConn{{"v1", traffic.Conn{Cookie: 72}}}
		}},
		{"every arrival that the kernel saw was reported", func(e *evidence) {
			e.ledger.passive[socket{"v1", 99}] = []probe.Line{{Pod: "v1", Cookie: 99}}
		}},
		{"every arrival that the kernel saw was reported", func(e *evidence) {
			e.ledger.Stray = []probe.StraySYN{{Pod: "v1", SYN: probe.SYN{Side: probe.SidePod, Direction: probe.In, Dst: server}}}
		}},
		{"after the change: enough connections", func(e *evidence) {
			then := e.loads[0].load.Want
			e.loads[0].load.Then, e.change = &then, window{1000, 2000}
		}},
		{"every declared connection was reported", func(e *evidence) { e.loads[0].load.Connections = 2 }},
		{"every connect that the kernel saw was reported", func(e *evidence) {
			e.ledger.active[socket{"client", 99}] = []probe.Line{{Pod: "client", Cookie: 99, Asked: vip}}
		}},
		{"packets of client to 10.96.0.1:80", func(e *evidence) {
			e.ledger.Wire = append(e.ledger.Wire, probe.WireCount{Pod: "client", Side: probe.SidePod, Dst: vip, Packets: 1})
		}},
		{"packets of client to 10.96.0.1:80", func(e *evidence) {
			e.ledger.Stray = []probe.StraySYN{{Pod: "client", SYN: probe.SYN{Side: probe.SidePod, Direction: probe.Out, Dst: vip}}}
		}},
		{"the judge missed nothing", func(e *evidence) { e.ledger.Lost.Missed = 1 }},
		{"the judge missed nothing", func(e *evidence) { e.ledger.Providers = nil }},
		{"share of v1", func(e *evidence) { e.loads[0].load.Want.Split = map[string]float64{"v1": .5, "v2": .5} }},
		{"the harness had ports", func(e *evidence) { client(e).Errno, client(e).Op = "EADDRNOTAVAIL", "connect" }},
	}
	for _, c := range cases {
		e := good()
		c.break1(&e)
		r := verdictOf(e)
		found := false
		for _, f := range r.Failed() {
			found = found || strings.Contains(f.Name, c.check)
		}
		if r.Verdict == report.Pass || !found {
			t.Errorf("%s: verdict %s, failed checks %+v", c.check, r.Verdict, r.Failed())
		}
	}
}

// leftAlone is the evidence of one connection that kube-proxy's kind of rules serve: the
// socket and its first packet have the asked address, the server's link has its own.
func leftAlone() evidence {
	e := good()
	e.loads[0].load.Want.Via = scenario.ViaDNAT
	line := &e.ledger.active[socket{"client", 70}][0]
	line.Peer, line.Wire[0].Dst = vip, vip
	e.ledger.Lines = []probe.Line{*line, e.ledger.Lines[1]}
	return e
}

// TestLeftAlone: a pod outside the mesh that was redirected all the same must not pass,
// and neither one whose connection somebody has rewritten in the socket or on its link.
func TestLeftAlone(t *testing.T) {
	if r := verdictOf(leftAlone()); r.Verdict != report.Pass || r.Connections != 1 {
		t.Fatalf("%d connections judged, %s: %+v", r.Connections, r.Verdict, r.Failed())
	}
	renumbered, elsewhere := leftAlone(), leftAlone()
	for e, peer := range map[*evidence]string{&renumbered: "10.0.0.2:1024", &elsewhere: "10.0.0.3:40000"} {
		e.served[7][0].Peer = netip.MustParseAddrPort(peer)
		e.ledger.passive[socket{"v1", 71}][0].Peer = e.served[7][0].Peer
	}
	strict := renumbered
	renumbered.loads = []*loadEvidence{{load: renumbered.loads[0].load, asked: vip, conns: renumbered.loads[0].conns}}
	renumbered.loads[0].load.Want.AnyPort, elsewhere.loads[0].load.Want.AnyPort = true, true
	if r := verdictOf(renumbered); r.Verdict != report.Pass {
		t.Errorf("another port where it may be: %s: %+v", r.Verdict, r.Failed())
	}
	redirected := good()
	redirected.loads[0].load.Want.Via = scenario.ViaDNAT
	socketAlone := leftAlone()
	socketAlone.ledger.active[socket{"client", 70}][0].Peer = server
	packetAlone := leftAlone()
	packetAlone.ledger.active[socket{"client", 70}][0].Wire[0].Dst = server
	for name, c := range map[string]struct {
		e      evidence
		checks []string
	}{
		"redirected by the mesh": {redirected, []string{"the socket's peer is as declared", "the first packet went as declared", "packets of client to 10.96.0.1:80"}},
		"another port":           {strict, []string{"the server sees the client's own address"}},
		"another address":        {elsewhere, []string{"the server sees the client's own address"}},
		"another peer":           {socketAlone, []string{"the socket's peer is as declared"}},
		"rewritten on its way":   {packetAlone, []string{"the first packet went as declared"}},
	} {
		r := verdictOf(c.e)
		for _, check := range c.checks {
			found := slices.ContainsFunc(r.Failed(), func(f report.Check) bool { return strings.Contains(f.Name, check) })
			if r.Verdict != report.Fail || !found {
				t.Errorf("%s: verdict %s, want %q to fail: %+v", name, r.Verdict, check, r.Failed())
			}
		}
	}
}

// A pod that reaches itself has no packet on its link, and no other pod may lack one.
func TestHairpin(t *testing.T) {
	hairpin := func() evidence {
		e := good()
		e.loads[0].load.From, e.loads[0].conns[0].pod = []string{"v1"}, "v1"
		line := e.ledger.active[socket{"client", 70}]
		delete(e.ledger.active, socket{"client", 70})
		line[0].Pod, line[0].Wire = "v1", nil
		e.ledger.active[socket{"v1", 70}] = line
		e.ledger.passive[socket{"v1", 71}][0].Wire = nil
		e.ledger.Wire = nil
		return e
	}
	if r := verdictOf(hairpin()); r.Verdict != report.Pass || r.Connections != 1 {
		t.Errorf("%d connections judged, %s: %+v", r.Connections, r.Verdict, r.Failed())
	}
	syn := []probe.SYN{{Side: probe.SidePod, Direction: probe.Out, Src: local, Dst: server, Count: 1}}
	for check, break1 := range map[string]func(e *evidence){
		"the first packet went as declared":         func(e *evidence) { e.ledger.active[socket{"v1", 70}][0].Wire = syn },
		"the server's kernel saw it arrive":         func(e *evidence) { e.ledger.passive[socket{"v1", 71}][0].Wire = syn },
		"the socket's peer is as declared":          func(e *evidence) { e.ledger.active[socket{"v1", 70}][0].Peer = vip },
		"client and kernel agree on what was asked": func(e *evidence) { delete(e.ledger.active, socket{"v1", 70}) },
		"packets of v1 to 10.96.0.1:80": func(e *evidence) {
			e.ledger.Wire = []probe.WireCount{{Pod: "v1", Side: probe.SidePod, Dst: vip, Packets: 1}}
		},
	} {
		e := hairpin()
		break1(&e)
		r := verdictOf(e)
		if !slices.ContainsFunc(r.Failed(), func(c report.Check) bool { return strings.Contains(c.Name, check) }) {
			t.Errorf("%s: verdict %s, failed checks %+v", check, r.Verdict, r.Failed())
		}
	}
}

// TestHolesTakeNoBlame: what the ledger alone says against a connection is
// inconclusive when the ledger has holes; what client and server say stands.
func TestHolesTakeNoBlame(t *testing.T) {
	e := good()
	e.ledger.Lost.Missed = 1
	e.ledger.active = nil
	if r := verdictOf(e); r.Verdict != report.Inconclusive {
		t.Errorf("missing lines: %s %+v", r.Verdict, r.Failed())
	}
	e.served[7][0].pod = "v2"
	if r := verdictOf(e); r.Verdict != report.Fail {
		t.Errorf("client and server disagree: %s", r.Verdict)
	}
}

// TestSilentServer: what only a silent server could tell is inconclusive, what client
// and kernel saw of a failed connection is a fail; never a pass.
func TestSilentServer(t *testing.T) {
	e := good()
	e.served, e.silent = nil, map[string]error{"v1": errors.New("killed")}
	if r := verdictOf(e); r.Verdict != report.Inconclusive {
		t.Errorf("a connection that only the server is missing of: %s %+v", r.Verdict, r.Failed())
	}
	e.silent = map[string]error{"v2": errors.New("killed")}
	if r := verdictOf(e); r.Verdict != report.Fail {
		t.Errorf("the silent server is another: %s %+v", r.Verdict, r.Failed())
	}
	e = good()
	e.served, e.silent = nil, map[string]error{"v1": errors.New("killed")}
	c := &e.loads[0].conns[0]
	c.Errno, c.Op, c.Server = "ECONNREFUSED", "connect", ""
	if r := verdictOf(e); r.Verdict != report.Fail {
		t.Errorf("a failed connection: %s %+v", r.Verdict, r.Failed())
	}
}

// TestCutShort: what clients told before they were ended is judged; what they did not
// tell blames nobody.
func TestCutShort(t *testing.T) {
	e := good()
	e.cutShort = context.Canceled
	e.loads[0].load.Connections = 100
	e.ledger.active[socket{"client", 99}] = []probe.Line{{Pod: "client", Cookie: 99, Asked: vip}}
	if r := verdictOf(e); r.Verdict != report.Inconclusive {
		t.Errorf("good as far as it went: %s %+v", r.Verdict, r.Failed())
	}
	e.loads[0].conns[0].Errno, e.loads[0].conns[0].Op = "ETIMEDOUT", "connect"
	if r := verdictOf(e); r.Verdict != report.Fail {
		t.Errorf("a failed connection: %s %+v", r.Verdict, r.Failed())
	}
}

func TestRefusals(t *testing.T) {
	refused := func(want scenario.Outcome, sent bool) report.Result {
		e := good()
		e.loads[0].load.Want = scenario.Want{Outcome: want}
		c := &e.loads[0].conns[0]
		c.Errno, c.Op, c.Server = unix.ErrnoName(unix.ECONNREFUSED), "connect", ""
		e.served = nil
		line := probe.Line{Pod: "client", Cookie: 70, Role: probe.RoleActive, Asked: vip}
		e.ledger.Wire = nil
		if sent {
			line.Peer, line.SynSentAt = vip, 105
			line.Wire = []probe.SYN{{Side: probe.SidePod, Direction: probe.Out, Dst: vip}}
			e.ledger.Wire = []probe.WireCount{{Pod: "client", Side: probe.SidePod, Dst: vip, Packets: 1, SYNs: 1}}
		}
		e.ledger.Lines = []probe.Line{line}
		e.ledger = ledger{e.ledger.Ledger, map[socket][]probe.Line{{"client", 70}: {line}}, nil}
		return verdictOf(e)
	}
	for _, c := range []struct {
		want scenario.Outcome
		sent bool
		pass bool
	}{
		{scenario.RefusedByMesh, false, true},
		{scenario.RefusedByMesh, true, false},
		{scenario.RefusedByPeer, true, true},
		{scenario.RefusedByPeer, false, false},
	} {
		r := refused(c.want, c.sent)
		if got := r.Verdict == report.Pass; got != c.pass {
			t.Errorf("%s, SYN sent %v: %s %+v", c.want, c.sent, r.Verdict, r.Failed())
		}
	}
}

// TestGroupsByChange puts each connection on its side of the change.
func TestGroupsByChange(t *testing.T) {
	e := good()
	then := e.loads[0].load.Want
	e.loads[0].load.Then = &then
	e.change = window{start: 1000, end: 2000}
	at := func(start, connected int64) clientConn {
		return clientConn{"client", traffic.Conn{Start: start, Connected: connected, End: connected + 1}}
	}
	e.loads[0].conns = []clientConn{at(1, 999), at(999, 1000), at(1500, 1600), at(2000, 2100), at(2001, 2100)}
	var got []int
	for _, g := range e.groups(0) {
		got = append(got, len(g.facts))
	}
	if fmt.Sprint(got) != "[1 3 1]" {
		t.Errorf("before, during, after: %v, want [1 3 1]", got)
	}
}

func TestRunFaults(t *testing.T) {
	s, _ := scenario.Find("clusterip/weight/90-10")
	for _, c := range []struct {
		err  error
		want report.Verdict
	}{
		{fmt.Errorf("%w: no IPv6 here", scenario.ErrNotExpressible), report.NotRun},
		{errors.New("no space left"), report.Inconclusive},
		{meshError{errors.New("map frontends is full")}, report.Fail},
	} {
		open := func(context.Context, scenario.Topology) (scenario.World, error) { return nil, c.err }
		r := Run(t.Context(), s, Options{World: "fake", Open: open}, 1)
		if r.Verdict != c.want || !strings.Contains(r.Reason, c.err.Error()) {
			t.Errorf("%v: %s, %q", c.err, r.Verdict, r.Reason)
		}
	}
}

func TestEvidenceIsWritten(t *testing.T) {
	e := good()
	dir := t.TempDir() + "/deep"
	if err := e.write(dir, "a/b"); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"a_b.clients.json", "a_b.servers.json", "a_b.ledger.json"} {
		if b, err := os.ReadFile(dir + "/" + f); err != nil || len(b) < 10 {
			t.Errorf("%s: %d bytes, %v", f, len(b), err)
		}
	}
}
