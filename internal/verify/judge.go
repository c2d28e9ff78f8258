package verify

import (
	"fmt"
	"net/netip"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// fact is all that is known of one client connection.
type fact struct {
	clientConn
	load *scenario.Load
	// servers are the server-side reports with its ID: one, when it connected.
	servers []servedConn
	// lines are the kernel's lines of its socket: exactly one.
	lines []probe.Line
	// accepted are the kernel's lines of the server's socket.
	accepted []probe.Line
	// seen is all evidence, for what a waypoint stands between.
	seen *evidence
}

// group is connections of one load of which the same is expected.
type group struct {
	name  string
	rules []rule
	facts []fact
	// least is how many connections must be in it for it to say anything.
	least int
	// wants has one member, or two for connections asked for while a change
	// was being made: each may follow either.
	wants []scenario.Want
	// times says what was declared at which moment, for connections that were made
	// while objects were churned.
	times timeline
	// byRequest is set where shares are those of requests, which are judged apart.
	byRequest bool
}

// judge holds the evidence against what each load wants. It returns how many
// connections were judged, and the checks.
func (e *evidence) judge() (int, []report.Check) {
	missing := e.missing()
	checks := []report.Check{e.checkLost(), e.checkTold()}
	var all []group
	for i := range e.loads {
		all = append(all, e.groups(i)...)
	}
	judged := 0
	for _, g := range all {
		judged += len(g.facts)
		checks = append(checks, g.judge(missing)...)
		checks = append(checks, g.checkTimes()...)
	}
	for _, c := range e.checkRequests() {
		checks = append(checks, missing.limit(c, clients))
	}
	checks = append(checks, e.checkWaypoints(missing)...)
	checks = append(checks, e.checkChange(all)...)
	checks = append(checks, missing.limit(e.checkCount(judged), clients),
		missing.limit(e.checkUnreported(), kernel|clients), missing.limit(e.checkGhosts(), clients),
		missing.limit(e.checkGhostLines(), kernel|clients))
	for _, c := range e.checkWire(all) {
		checks = append(checks, missing.limit(c, kernel|clients))
	}
	for _, c := range e.checkDatagrams(all) {
		checks = append(checks, missing.limit(c, kernel|servers|clients))
	}
	return judged, checks
}

// groups splits a load's connections by the change of the phase.
func (e *evidence) groups(i int) []group {
	le := e.loads[i]
	name := le.load.To.String()
	least := max(1, le.load.Connections/20)
	rules := rulesOf(le.load)
	before := group{
		name: name, rules: rules, wants: []scenario.Want{le.load.Want}, least: least, byRequest: isHTTP(le.load),
	}
	if isHTTP(le.load) && le.load.Then != nil && !le.load.Interrupted {
		// Connections live through the change: one group, and its requests by time.
		before.wants = append(before.wants, *le.load.Then)
		for _, c := range le.conns {
			before.facts = append(before.facts, e.fact(le, c))
		}
		return []group{before}
	}
	if le.load.Then == nil {
		for _, c := range le.conns {
			before.facts = append(before.facts, e.fact(le, c))
		}
		return []group{before}
	}
	after := group{
		name: name + " after the change", rules: rules, wants: []scenario.Want{*le.load.Then}, least: least, byRequest: before.byRequest,
	}
	while := group{name: name + " during the change", rules: rules, wants: []scenario.Want{le.load.Want, *le.load.Then}}
	if t := e.timeline(le.load); len(t.held) > 0 {
		while.times, while.least = t, le.load.Connections/4
	}
	if pods := podsOf(le.load.To.Service, e.churned); len(pods) > 0 {
		while.wants = append(while.wants, anyOf(le.load.Want, pods))
	}
	if le.load.Interrupted {
		while.wants = append(while.wants, scenario.Interrupted())
	}
	before.name += " before the change"
	for _, c := range le.conns {
		g := &while
		switch {
		case c.Start > e.change.end:
			g = &after
		case c.decided() < e.change.start && !le.load.Interrupted, c.End < e.change.start:
			g = &before
		}
		g.facts = append(g.facts, e.fact(le, c))
	}
	return []group{before, while, after}
}

// decided is the moment by which connect() had returned.
func (c clientConn) decided() int64 {
	if c.Connected != 0 {
		return c.Connected
	}
	return c.End
}

func (e *evidence) fact(le *loadEvidence, c clientConn) fact {
	f := fact{clientConn: c, load: &le.load, seen: e, servers: e.served[c.ID], lines: e.ledger.active[socket{c.pod, c.Cookie}]}
	for _, s := range f.servers {
		f.accepted = append(f.accepted, e.ledger.passive[socket{s.pod, s.Cookie}]...)
	}
	return f
}

// place is the name of the pod that served, with the number of the address where it was
// reached; see scenario.AddressOf.
func (e *evidence) place(s servedConn) string {
	if name, own := e.placeAt(s.pod, s.Local.Addr().Unmap()); own {
		return name
	}
	return s.pod
}

// placeAt is the name of an address of a pod; false where it is not the pod's.
func (e *evidence) placeAt(pod string, at netip.Addr) (string, bool) {
	n := 1
	for _, a := range e.pods[pod].Addresses {
		if a == at {
			return scenario.AddressOf(pod, n), true
		}
		if a.Is4() == at.Is4() {
			n++
		}
	}
	return "", false
}

// checkChange finds groups that are too small to show what they stand for: a
// change that came after the last connection has shown nothing.
func (e *evidence) checkChange(all []group) []report.Check {
	var checks []report.Check
	for _, g := range all {
		if g.least == 0 {
			continue
		}
		c := report.Checkf(g.name+": enough connections", len(g.facts) >= g.least,
			"%d, at least %d", len(g.facts), g.least)
		if c.Verdict != report.Pass {
			c.Verdict = report.Inconclusive
		}
		checks = append(checks, c)
	}
	return checks
}

// checkCount finds connections that were declared and never reported.
func (e *evidence) checkCount(judged int) report.Check {
	declared, gaveUp := 0, ""
	for _, le := range e.loads {
		declared += le.load.Connections
		for _, pod := range le.gaveUp {
			gaveUp += fmt.Sprintf("; the client of %s to %s gave up", pod, le.load.To)
		}
	}
	return report.Checkf("every declared connection was reported", judged == declared,
		"%d of %d%s", judged, declared, gaveUp)
}

// checkUnreported compares what the kernel saw with what clients reported: a
// connect that no client reported is as bad as a missing one.
func (e *evidence) checkUnreported() report.Check {
	reported := map[socket]bool{}
	asked := map[netip.AddrPort]bool{}
	for _, le := range e.loads {
		asked[plain(le.asked)] = true
		for _, c := range le.conns {
			reported[socket{c.pod, c.Cookie}] = true
		}
	}
	extra := 0
	for s, lines := range e.ledger.active {
		if reported[s] {
			continue
		}
		for _, l := range lines {
			if asked[plain(l.Asked)] {
				extra++
			}
		}
	}
	return report.Checkf("every connect that the kernel saw was reported", extra == 0,
		"%d connects that no client reported", extra)
}

// checkGhosts finds connections that servers report and no client has made.
func (e *evidence) checkGhosts() report.Check {
	ghosts := 0
	for id, conns := range e.served {
		for _, c := range conns {
			if !e.made(id, c) {
				ghosts++
			}
		}
	}
	return report.Checkf("every connection that servers saw was made by a client", ghosts == 0,
		"%d connections that no client reported", ghosts)
}

// checkGhostLines finds connections that arrived in a pod's kernel, or SYNs that
// reached its link, and that no server reports.
func (e *evidence) checkGhostLines() report.Check {
	reported := map[socket]bool{}
	for _, conns := range e.served {
		for _, c := range conns {
			reported[socket{c.pod, c.Cookie}] = true
		}
	}
	ghosts, strays, silent := 0, 0, 0
	for s, lines := range e.ledger.passive {
		switch {
		case reported[s] || e.entered(s, lines):
		case e.silent[s.pod] != nil:
			silent += len(lines)
		default:
			ghosts += len(lines)
		}
	}
	for _, s := range e.ledger.Stray {
		if s.Direction == probe.In && s.Side == probe.SidePod && !e.cut(s.Pod) {
			strays++
		}
	}
	c := report.Checkf("every arrival that the kernel saw was reported", ghosts+strays == 0,
		"%d connections that no server reported, %d SYNs that became no connection", ghosts, strays)
	if silent > 0 {
		c.Verdict = c.Verdict.Worse(report.Inconclusive)
		c.Detail += fmt.Sprintf("; %d connections to servers that are silent", silent)
	}
	return c
}

// plain writes a v4-mapped address as IPv4.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
