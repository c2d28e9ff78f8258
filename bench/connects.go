package bench

import (
	"net/netip"
	"slices"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/probe"
)

// connects says how the client's connections came to stand, by the kernel's own
// timestamps; nil when none did.
func connects(t JudgeTask, asked netip.AddrPort, l probe.Ledger) *result.Connects {
	var decided, wire, established []int64
	c := new(result.Connects)
	for _, line := range l.Lines {
		if line.Role == probe.RolePassive && line.Local.Port() == ambient.HBONEPort && line.Pod != t.Client.Name {
			c.Handshakes++ // each is a TLS connection: nothing else is served there
		}
		if line.Pod != t.Client.Name || line.Role != probe.RoleActive || line.Asked != asked ||
			line.AskedAt == 0 || line.SynSentAt == 0 || line.EstablishedAt == 0 {
			continue
		}
		c.Connections++
		decided = append(decided, line.SynSentAt-line.AskedAt)
		established = append(established, line.EstablishedAt-line.AskedAt)
		if at := onWire(line); at > 0 {
			wire = append(wire, at-line.AskedAt)
		}
	}
	if c.Connections == 0 {
		return nil
	}
	c.Decided, c.Established = median(decided), median(established)
	if int64(len(wire))*2 > c.Connections {
		c.OnWire = median(wire)
	}
	return c
}

// onWire is when the SYN of a connection passed the pod's link first.
func onWire(line probe.Line) int64 {
	first := int64(0)
	for _, s := range line.Wire {
		if first == 0 || s.At < first {
			first = s.At
		}
	}
	return first
}

// median is the middle of some nanoseconds, in microseconds.
func median(all []int64) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2]) / 1e3
}
