package bench

import (
	"os"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/ambient/standin"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/netsim"
)

// ztunnel is the path of a real one.
func ztunnel(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ZTUNNEL_BIN")
	if path == "" {
		t.Skip("NOT RUN: no ztunnel binary: set ZTUNNEL_BIN")
	}
	return path
}

// TestZtunnelGoesTheWholeWay: both placements, and each row proves itself.
func TestZtunnelGoesTheWholeWay(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	b := Tools{Ztunnel: ztunnel(t), Envoy: envoyOrSkip(t)}
	p := tiny()
	p.Variants = []plan.Variant{plan.Direct, plan.Ztunnel, plan.ZtunnelPlain, plan.ZtunnelWaypoint}
	p.Placements = []plan.Placement{plan.Cross, plan.Same}
	p.Blocks = 1
	_, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: b.Open, Judge: ProbeJudge})
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
	for _, v := range p.Variants[1:] {
		requirePass(t, s, string(v)+" redirected every connection")
	}
}

// TestStandInSpeaksHBONE with itself, and with a real ztunnel on either side: what
// the wire and both counters say must be the same.
func TestStandInSpeaksHBONE(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	own := func(*testing.T) ambient.Program {
		return ambient.Program{Binary: "/proc/self/exe", Argv: []string{standin.Name, "proxy"}}
	}
	genuine := func(t *testing.T) ambient.Program { return ambient.Program{Binary: ztunnel(t)} }
	for name, programs := range map[string][2]func(*testing.T) ambient.Program{
		"with itself":            {own, own},
		"to a ztunnel":           {own, genuine},
		"from a ztunnel":         {genuine, own},
		"as ztunnel with itself": {genuine, genuine},
	} {
		t.Run(name, func(t *testing.T) {
			if c := meet(t, programs[0](t), programs[1](t), ambient.HBONE, nil); c.Verdict != report.Pass {
				t.Errorf("%s: %s", c.Verdict, c.Detail)
			} else {
				t.Log(c.Detail)
			}
		})
	}
}

// TestTLSOffIsFound is the negative control on live pods: the same proxies told to
// speak plaintext, under the name of a row that says mutual TLS.
func TestTLSOffIsFound(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	own := ambient.Program{Binary: "/proc/self/exe", Argv: []string{standin.Name, "proxy"}}
	c := meet(t, own, own, ambient.TCP, nil)
	if c.Verdict != report.Fail || !strings.Contains(c.Detail, "0 packets of port 15008") {
		t.Errorf("%s: %s", c.Verdict, c.Detail)
	}
}

// TestRedirectTakenAwayIsFound is another: the server's pod loses its rules, so that
// what comes in plaintext reaches it around its proxy.
func TestRedirectTakenAwayIsFound(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	own := ambient.Program{Binary: "/proc/self/exe", Argv: []string{standin.Name, "proxy"}}
	c := meet(t, own, own, ambient.TCP, func(cfg ambient.Config) {
		for _, p := range cfg.Pods {
			if p.Name == serverPod {
				if err := ambient.Release(p.Netns); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	if c.Verdict != report.Fail || !strings.Contains(c.Detail, "the server's 0") {
		t.Errorf("%s: %s", c.Verdict, c.Detail)
	}
}

// meet lets the client's node run one program and the server's another; spoil breaks
// what then stands.
func meet(t *testing.T, client, server ambient.Program, protocol ambient.Protocol, spoil func(ambient.Config)) report.Check {
	t.Helper()
	p, v := quick(), plan.HBONERef
	if spoil != nil {
		v = plan.TCPRedirect
	}
	c, err := netsim.Open(t.Context(), netsim.Config{}, topology(shapeOf(v)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.Apply(t.Context(), services(shapeOf(v))); err != nil {
		t.Fatal(err)
	}
	cfg, err := meshOf(c, v, p, client)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Nodes[1].Program, cfg.Protocol = &server, protocol
	m, err := ambient.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	if spoil != nil {
		spoil(cfg)
	}
	site, err := new(simulated).site(c, shapeOf(v), clientCross)
	if err != nil {
		t.Fatal(err)
	}
	site.Proxies = proxies{cluster: c, mesh: m, variant: v, client: clientCross}
	check, err := prove(t.Context(), site, p, plan.Cell{Placement: plan.Cross, Mode: plan.NewConn, Variant: v})
	if err != nil {
		t.Fatal(err)
	}
	if m.Signed() < int64(len(cfg.Pods)) {
		t.Errorf("%d certificates were signed, want one for each pod", m.Signed())
	}
	return check
}
