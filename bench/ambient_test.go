package bench

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/wire"
	"github.com/duomesh/duomesh/dataplane/l7/envoy"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
)

// TestStandInsGoTheWholeWay runs the rows of the stand-in as `make bench` does without a
// ztunnel, in two of its modes: both placements, and each row proves itself.
func TestStandInsGoTheWholeWay(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	p := tiny()
	p.Variants = []plan.Variant{plan.Direct, plan.HBONERef, plan.TCPRedirect}
	p.Modes = []plan.Mode{plan.Closed, plan.NewConn}
	p.Placements = []plan.Placement{plan.Cross, plan.Same}
	p.Blocks = 1
	_, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: OpenNetsim, Judge: ProbeJudge})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Checks {
		t.Logf("%s: %s: %s", c.Name, c.Verdict, c.Detail)
	}
	for _, v := range p.Variants {
		for _, place := range []string{"cross", "same"} {
			requirePass(t, s, "on the wire: "+place+"/newconn/"+string(v))
			requirePass(t, s, "judge: "+place+"/newconn/"+string(v))
		}
	}
	for _, name := range []string{"hboneref redirected every connection", "tcp-redirect redirected every connection", "every request was answered by 200"} {
		requirePass(t, s, name)
	}
	if len(s.Proxies) != 2 || !strings.Contains(s.Proxies[0].Program, "not ztunnel") || s.Proxies[0].ResidentBytes["a"] == 0 {
		t.Errorf("proxies: %+v", s.Proxies)
	}
	for _, g := range s.Groups {
		if r := g.Row(plan.HBONERef); r.Note == "" || r.ProxyCPU["node proxy b"] <= 0 {
			t.Errorf("%s %s: %+v", g.Placement, g.Mode, r)
		}
	}
}

// TestWaypointBetweenStandIns: the same Envoy as duomesh's waypoint, between two
// tunnels, on both placements; the row proves itself.
func TestWaypointBetweenStandIns(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	tools := Tools{Envoy: envoyOrSkip(t)}
	p := tiny()
	p.Variants, p.Placements = []plan.Variant{plan.Direct, plan.HBONERefWaypoint}, []plan.Placement{plan.Cross, plan.Same}
	p.Blocks = 1
	_, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: tools.Open, Judge: ProbeJudge})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Checks {
		t.Logf("%s: %s: %s", c.Name, c.Verdict, c.Detail)
	}
	for _, place := range []string{"cross", "same"} {
		requirePass(t, s, "on the wire: "+place+"/newconn/hboneref-waypoint")
		requirePass(t, s, "judge: "+place+"/newconn/hboneref-waypoint")
	}
	requirePass(t, s, "hboneref-waypoint redirected every connection")
	requirePass(t, s, "every request was answered by 200")
	row := s.Groups[0].Row(plan.HBONERefWaypoint)
	if row.Cost.ProxyMemory < 20e6 || row.Cost.ProxyCores <= 0 || row.Cost.ProxyMemoryPer1000 <= row.Cost.ProxyMemory*0.01 {
		t.Errorf("1000 requests a second take %+v", row.Cost)
	}
	i := slices.IndexFunc(s.Proxies, func(p result.Proxy) bool { return strings.HasPrefix(p.Program, "Envoy ") })
	if i < 0 || s.Proxies[i].ResidentBytes["envoy"] < 10e6 || s.Proxies[i].Workers != proxyWorkers {
		t.Errorf("the Envoy is not described: %+v", s.Proxies)
	}
	for _, b := range s.Breakdowns {
		t.Logf("%s: %d requests of %.0f µs, %d hops, %s", b.Cell, b.Requests, b.P50, b.Hops, b.Reason)
		if b.Variant == plan.HBONERefWaypoint && b.Placement == plan.Cross && b.Hops != 3 {
			t.Errorf("%s: %d hops in user space, want 3: %+v", b.Cell, b.Hops, b.Path)
		}
	}
}

// envoyOrSkip is the Envoy of ENVOY_BIN, or the one that make tools has fetched.
func envoyOrSkip(t *testing.T) string {
	t.Helper()
	path := envoy.Find(os.Getenv("ENVOY_BIN"))
	if path == "" {
		t.Skip("NOT RUN: no Envoy: make tools fetches one, ENVOY_BIN names yours")
	}
	return path
}

// TestZtunnelNeedsABinary: nothing is put in its place.
func TestZtunnelNeedsABinary(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	p := quick()
	p.Variants = []plan.Variant{plan.Direct, plan.Ztunnel}
	if w, err := OpenNetsim(t.Context(), p); err == nil || !strings.Contains(err.Error(), "ztunnel needs a ztunnel binary") {
		t.Errorf("world %v, error %v", w, err)
	}
}

// TestProofRefuses seeds a defect in each part of the proof.
func TestProofRefuses(t *testing.T) {
	cell := func(v plan.Variant) plan.Cell {
		return plan.Cell{Placement: plan.Cross, Mode: plan.NewConn, Variant: v}
	}
	seen := func(tunnel, plain, marked uint64) wire.Counts {
		return wire.Counts{Ports: map[uint16]uint64{ambient.HBONEPort: tunnel, serverPort: plain}, Marked: marked}
	}
	good := map[plan.Variant]evidence{
		plan.Direct:       {connections: 10, wire: seen(0, 100, 10)},
		plan.Ztunnel:      {connections: 10, wire: seen(70, 0, 0), client: 10, peer: 10},
		plan.ZtunnelPlain: {connections: 10, wire: seen(0, 120, 10), client: 10, peer: 10},
		// The waypoint keeps its connections to the server.
		plan.ZtunnelWaypoint: {connections: 10, wire: seen(90, 0, 0), client: 10, peer: 3},
	}
	for v, e := range good {
		if c := weigh(cell(v), serverPort, e); c.Verdict != report.Pass {
			t.Errorf("%s: %s: %s", v, c.Verdict, c.Detail)
		}
	}
	for name, bad := range map[string]struct {
		v plan.Variant
		e evidence
	}{
		"TLS is off":                        {plan.Ztunnel, evidence{connections: 10, wire: seen(70, 0, 10), client: 10, peer: 10}},
		"the tunnel is bypassed":            {plan.Ztunnel, evidence{connections: 10, wire: seen(70, 1, 0), client: 10, peer: 10}},
		"the redirect is not installed":     {plan.Ztunnel, evidence{connections: 10, wire: seen(0, 100, 10)}},
		"the server's side is not captured": {plan.ZtunnelPlain, evidence{connections: 10, wire: seen(0, 100, 10), client: 10}},
		"the waypoint is bypassed":          {plan.ZtunnelWaypoint, evidence{connections: 10, wire: seen(90, 0, 0), peer: 3}},
		"the waypoint speaks in clear":      {plan.ZtunnelWaypoint, evidence{connections: 10, wire: seen(90, 30, 10), client: 10, peer: 3}},
		"the waypoint's server is another":  {plan.ZtunnelWaypoint, evidence{connections: 10, wire: seen(90, 0, 0), client: 10}},
		"nothing was sent":                  {plan.Ztunnel, evidence{wire: seen(70, 0, 0)}},
		"the eye is blind":                  {plan.Direct, evidence{connections: 10, wire: seen(0, 100, 0)}},
	} {
		if c := weigh(cell(bad.v), serverPort, bad.e); c.Verdict != report.Fail {
			t.Errorf("%s: %s: %s", name, c.Verdict, c.Detail)
		}
	}
	lost := good[plan.Ztunnel]
	lost.wire.Lost = 1
	if c := weigh(cell(plan.Ztunnel), serverPort, lost); c.Verdict != report.Inconclusive {
		t.Errorf("lost packets: %s", c.Verdict)
	}
}
