package verify

import (
	"net/netip"
	"testing"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
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
