package bench

import (
	"net/netip"
	"testing"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/scenario"
)

// TestHowConnectionsCameToStand: medians of the client's own, the wire only where most
// were on it, and TLS connections apart.
func TestHowConnectionsCameToStand(t *testing.T) {
	asked := netip.MustParseAddrPort("10.96.0.1:80")
	task := JudgeTask{Client: scenario.PodHandle{Name: "client"}, Server: scenario.PodHandle{Name: "server"}}
	line := func(n int64, wire bool) probe.Line {
		l := probe.Line{
			Pod: "client", Role: probe.RoleActive, Asked: asked,
			AskedAt: 1000, SynSentAt: 1000 + 1000*n, EstablishedAt: 1000 + 9000*n,
		}
		if wire {
			l.Wire = []probe.SYN{{At: 1000 + 5000*n}, {At: 1000 + 4000*n}}
		}
		return l
	}
	tunnel := probe.Line{Pod: "server", Role: probe.RolePassive, Local: netip.MustParseAddrPort("10.0.0.2:15008")}
	other := line(50, true)
	other.Asked = netip.MustParseAddrPort("10.96.0.2:80")
	half := line(60, true)
	half.EstablishedAt = 0
	c := connects(task, asked, probe.Ledger{Lines: []probe.Line{line(3, true), line(1, true), line(2, false), tunnel, other, half}})
	if c == nil || c.Connections != 3 || c.Decided != 2 || c.Established != 18 || c.OnWire != 12 || c.Handshakes != 1 {
		t.Errorf("%+v", c)
	}
	c = connects(task, asked, probe.Ledger{Lines: []probe.Line{line(3, true), line(1, false), line(2, false)}})
	if c == nil || c.OnWire != 0 || c.Handshakes != 0 {
		t.Errorf("two of three were never on a wire: %+v", c)
	}
	if c := connects(task, asked, probe.Ledger{Lines: []probe.Line{other}}); c != nil {
		t.Errorf("nothing was asked: %+v", c)
	}
}
