package verify

import (
	"slices"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// taker is the replica of a waypoint whose own kernel took the connection from the
// client; "" where none did.
func (f fact) taker(w scenario.Want) string {
	at, _ := f.replica(w)
	pod := f.seen.replicas[w.Waypoint][at.Addr()]
	for s, lines := range f.seen.ledger.passive {
		if s.pod == pod && slices.ContainsFunc(lines, func(l probe.Line) bool {
			return plain(l.Peer) == plain(f.Local) && plain(l.Local) == at
		}) {
			return pod
		}
	}
	return ""
}

// checkReplicas: each replica that is to take some connections took some. Who is never
// used breaks no rule of a single connection.
func (g group) checkReplicas() []report.Check {
	if len(g.wants) != 1 || len(g.wants[0].Replicas) == 0 {
		return nil
	}
	taken := map[string]int{}
	for _, f := range g.facts {
		taken[f.taker(g.wants[0])]++
	}
	var checks []report.Check
	for _, pod := range g.wants[0].Replicas {
		checks = append(checks, report.Checkf(g.name+": some to replica "+pod, taken[pod] > 0, "%d of %d", taken[pod], len(g.facts)))
	}
	return checks
}
