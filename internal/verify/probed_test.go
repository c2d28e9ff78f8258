package verify

import (
	"net/netip"
	"testing"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// TestProbedPorts: that somebody asks whether a pod is well is no connection of a
// scenario's; one at any other port is.
func TestProbedPorts(t *testing.T) {
	for port, want := range map[uint16]report.Verdict{15021: report.Pass, 15022: report.Fail} {
		e := good()
		h := e.pods["v1"]
		h.Probed = []uint16{15021}
		e.pods["v1"] = h
		e.ledger.passive[socket{"v1", 99}] = []probe.Line{{
			Pod: "v1", Cookie: 99, Role: probe.RolePassive, Local: netip.AddrPortFrom(h.Addresses[0], port),
		}}
		if r := verdictOf(e); r.Verdict != want {
			t.Errorf("port %d: %s, want %s: %v", port, r.Verdict, want, r.Failed())
		}
	}
}

// TestForwardedPorts: what the world itself asks inside a waypoint's network is not the
// waypoint's; what the waypoint asks is held to have gone where it was asked for.
func TestForwardedPorts(t *testing.T) {
	at := netip.MustParseAddrPort
	for name, c := range map[string]struct {
		line probe.Line
		want report.Verdict
	}{
		"the world's question":           {probe.Line{Peer: at("127.0.0.1:15200")}, report.Pass},
		"at another port":                {probe.Line{Peer: at("127.0.0.1:15201")}, report.Fail},
		"at another address":             {probe.Line{Peer: at("10.0.1.2:15200")}, report.Fail},
		"redirected to the same port":    {probe.Line{Asked: vip, Peer: at("127.0.0.1:15200")}, report.Fail},
		"the waypoint's own, left alone": {probe.Line{Asked: server, Peer: server}, report.Pass},
	} {
		e := good()
		e.pods["w"] = scenario.PodHandle{Name: "w", Forwarded: []uint16{15200}}
		e.replicas = map[string]map[netip.Addr]string{"w": {netip.MustParseAddr("10.0.1.9"): "w"}}
		c.line.Pod, c.line.Cookie, c.line.Role = "w", 99, probe.RoleActive
		e.ledger.active[socket{"w", 99}] = []probe.Line{c.line}
		if got := e.checkWaypoints(0)[0]; got.Verdict != c.want {
			t.Errorf("%s: %s, want %s: %s", name, got.Verdict, c.want, got.Detail)
		}
	}
}

// TestForwardedArrivals: such a question arrives at the pod's loopback; whoever comes to
// that port from elsewhere is somebody else.
func TestForwardedArrivals(t *testing.T) {
	for at, want := range map[string]report.Verdict{
		"127.0.0.1:15200": report.Pass, "[::1]:15200": report.Pass, "[::ffff:127.0.0.1]:15200": report.Pass,
		"127.0.0.1:15021": report.Fail, "10.0.1.2:15200": report.Fail,
	} {
		e := good()
		h := e.pods["v1"]
		h.Forwarded = []uint16{15200}
		e.pods["v1"] = h
		e.ledger.passive[socket{"v1", 99}] = []probe.Line{{
			Pod: "v1", Cookie: 99, Role: probe.RolePassive, Local: netip.MustParseAddrPort(at),
		}}
		if r := verdictOf(e); r.Verdict != want {
			t.Errorf("%s: %s, want %s: %v", at, r.Verdict, want, r.Failed())
		}
	}
}
