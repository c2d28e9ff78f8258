package verify

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// A waypoint stands between: the client's connection ends there, and the server sees
// another. So the client's end is held against the waypoint's kernel, the server's
// against the waypoint's address, and what ties them is the connection's ID: in the
// stream for TCP, in each request for HTTP.

func isHTTP(l scenario.Load) bool { return l.Requests > 0 }

// viaWaypoint reports whether the connections of a load pass a waypoint, or are refused
// for want of one.
func viaWaypoint(l scenario.Load) bool {
	return isHTTP(l) || l.Want.Via == scenario.ViaWaypoint || (l.Then != nil && l.Then.Via == scenario.ViaWaypoint)
}

var waypointRules = [...]rule{
	{"the application saw what is declared", ruleOutcomeVia, 0},
	{"client and kernel agree on what was asked", ruleAsked, kernel},
	{"client and server agree", ruleServerVia, servers},
	{"getpeername answers the asked address", rulePeerNameVia, 0},
	{"the server sees the waypoint", ruleSourceVia, 0},
	{"the socket's peer is the waypoint", rulePeer, kernel},
	{"the waypoint's kernel saw it arrive", ruleEntered, kernel},
	{"the server's kernel saw it arrive", ruleAcceptedVia, kernel},
	{"the first packet went as declared", ruleFirstPacketVia, kernel}, // or was never made
}

func ruleOutcomeVia(f fact, w scenario.Want) string {
	switch {
	case w.MayFail():
		return ""
	case !isHTTP(*f.load) || w.Outcome != scenario.Connected:
		return ruleOutcome(f, w)
	case f.Errno != "":
		return fmt.Sprintf("%s after %d requests, want %s", f.saw(), len(f.Requests), w.Outcome)
	case len(f.Requests) != f.load.Requests:
		return fmt.Sprintf("%d requests, want %d", len(f.Requests), f.load.Requests)
	}
	for i, r := range f.Requests {
		if r.Status != http.StatusOK {
			return fmt.Sprintf("request %d: status %d", i+1, r.Status)
		}
		if !f.declared(r.Server) {
			return fmt.Sprintf("request %d was served by %q, which is not declared", i+1, r.Server)
		}
	}
	return ""
}

// declared reports whether a pod may serve the load, before or after a change.
func (f fact) declared(pod string) bool {
	if _, there := f.load.Want.Split[pod]; there {
		return true
	}
	if f.load.Then == nil {
		return false
	}
	_, there := f.load.Then.Split[pod]
	return there
}

// ruleServerVia holds what servers count of the connection's requests against the
// client.
func ruleServerVia(f fact, w scenario.Want) string {
	switch {
	case w.MayFail():
		return ""
	case !isHTTP(*f.load) || w.Outcome != scenario.Connected:
		return ruleServer(f, w)
	}
	got, want := f.seen.requestsOf(f.ID), map[string]int{}
	for _, r := range f.Requests {
		want[r.Server]++
	}
	if !maps.Equal(got, want) {
		return fmt.Sprintf("the client was served %s, the servers count %s", counts(want), counts(got))
	}
	return ""
}

// requestsOf sums what servers say of a connection's requests, by pod.
func (e *evidence) requestsOf(id uint64) map[string]int {
	all := map[string]int{}
	for _, s := range e.served[0] {
		if n := s.Served[id]; n > 0 {
			all[s.pod] += n
		}
	}
	return all
}

func counts[V any](m map[string]V) string {
	text := ""
	for i, name := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s %v", name, m[name])
	}
	if text == "" {
		return "nothing"
	}
	return text
}

func rulePeerNameVia(f fact, w scenario.Want) string {
	if w.MayFail() {
		return ""
	}
	return rulePeerName(f, w)
}

// ruleSourceVia: what serves a connection is reached from the waypoint, never around it.
func ruleSourceVia(f fact, w scenario.Want) string {
	if w.MayFail() || w.Outcome != scenario.Connected {
		return ""
	}
	servers := f.servers
	for _, s := range f.seen.served[0] {
		if s.Served[f.ID] > 0 {
			servers = append(servers, s)
		}
	}
	replicas := f.seen.replicas[w.Waypoint]
	for _, s := range servers {
		if replicas[s.Peer.Addr().Unmap()] == "" {
			return fmt.Sprintf("%s sees %s, which is no replica of %s", s.pod, s.Peer, w.Waypoint)
		}
	}
	return ""
}

// replica is the address in the socket after connect, as the judge saw it, when it is a
// hand-off port of the waypoint; else one that is not valid and equals nothing.
func (f fact) replica(w scenario.Want) (netip.AddrPort, bool) {
	if len(f.lines) != 1 {
		return netip.AddrPort{}, true // rule "asked" has failed
	}
	peer := plain(f.lines[0].Peer)
	if w.MayFail() {
		return peer, peer.IsValid()
	}
	if f.seen.replicas[w.Waypoint][peer.Addr()] == "" || !slices.Contains(f.seen.handOffPorts[w.Waypoint], peer.Port()) {
		return netip.AddrPort{}, true
	}
	return peer, true
}

// ruleEntered: the waypoint's own kernel took the connection from the client.
func ruleEntered(f fact, w scenario.Want) string {
	if w.MayFail() || w.Outcome != scenario.Connected {
		return ""
	}
	if f.taker(w) != "" {
		return ""
	}
	at, _ := f.replica(w)
	return fmt.Sprintf("no line of %s for a connection from %s to %s", w.Waypoint, f.Local, at)
}

// ruleAcceptedVia is for TCP: the servers of requests are held by what they report.
func ruleAcceptedVia(f fact, w scenario.Want) string {
	if w.MayFail() || isHTTP(*f.load) {
		return ""
	}
	return ruleAccepted(f, w)
}

func ruleFirstPacketVia(f fact, w scenario.Want) string {
	if w.MayFail() {
		return ""
	}
	return ruleFirstPacket(f, w)
}

// made reports whether what a server saw comes from a client of the run.
func (e *evidence) made(id uint64, c servedConn) bool {
	if id == 0 && c.Received == 0 && len(c.Served) == 0 && e.replicaAt(c.Peer.Addr().Unmap()) != "" {
		return true // a waypoint's own, which it opened and did not need
	}
	if id != 0 || len(c.Served) == 0 {
		return e.known[id]
	}
	for client := range c.Served {
		if !e.known[client] {
			return false
		}
	}
	return true
}

// entered reports whether lines of a waypoint's socket are of client connections.
func (e *evidence) entered(s socket, lines []probe.Line) bool {
	for _, l := range lines {
		if slices.Contains(e.pods[s.pod].Probed, l.Local.Port()) || e.isForwarded(s.pod, l.Local) {
			continue
		}
		if e.cut(s.pod) || e.cut(e.replicaAt(l.Peer.Addr().Unmap())) {
			continue // it was made, and neither end lived to tell
		}
		if !e.isHandOff(l.Local.Port()) || !e.isReplica(s.pod) || !e.entering[plain(l.Peer)] {
			return false
		}
	}
	return true
}

func (e *evidence) isHandOff(port uint16) bool {
	for _, ports := range e.handOffPorts {
		if slices.Contains(ports, port) {
			return true
		}
	}
	return false
}

func (e *evidence) isReplica(pod string) bool {
	for _, replicas := range e.replicas {
		for _, name := range replicas {
			if name == pod {
				return true
			}
		}
	}
	return false
}

// replicaAt is the waypoint pod at an address, "" where there is none.
func (e *evidence) replicaAt(a netip.Addr) string {
	for _, replicas := range e.replicas {
		if replicas[a] != "" {
			return replicas[a]
		}
	}
	return ""
}

// cut reports whether a SYN met a waypoint that was gone for a while.
func (e *evidence) cut(pod string) bool {
	return e.isReplica(pod) && slices.ContainsFunc(e.loads, func(le *loadEvidence) bool { return le.load.Interrupted })
}

// checkRequests judges the shares of requests. Those of a load that a change concerns
// are judged by when they were made: answered before it, or asked after it.
func (e *evidence) checkRequests() []report.Check {
	var checks []report.Check
	for _, le := range e.loads {
		if !isHTTP(le.load) || le.load.Want.Outcome != scenario.Connected {
			continue
		}
		name := le.load.To.String() + ": requests:"
		if le.load.Then == nil {
			got := le.answers(func(int64, int64) bool { return true })
			checks = append(checks, shares(name, le.load.Want, got)...)
			continue
		}
		before := le.answers(func(_, end int64) bool { return end < e.change.start })
		after := le.answers(func(start, _ int64) bool { return start > e.change.end })
		checks = append(checks, shares(name+" before the change:", le.load.Want, before)...)
		checks = append(checks, shares(name+" after the change:", *le.load.Then, after)...)
	}
	return checks
}

// tellingRequests is how many requests say something of a pod that answers none.
const tellingRequests = 1000

func shares(name string, w scenario.Want, got map[string]int) []report.Check {
	if !w.Unweighed {
		return scenario.CheckSplit(name, w.Split, got)
	}
	checks := scenario.CheckExact(name, w.Split, got)
	total := 0
	for _, n := range got {
		total += n
	}
	for _, pod := range slices.Sorted(maps.Keys(w.Split)) {
		if total >= tellingRequests && w.Split[pod] > 0 {
			checks = append(checks, report.Checkf(name+" some to "+pod, got[pod] > 0, "%d of %d", got[pod], total))
		}
	}
	return checks
}

// answers counts the answers with status 200 of requests of some time, by server.
func (le *loadEvidence) answers(when func(start, end int64) bool) map[string]int {
	all := map[string]int{}
	for _, c := range le.conns {
		for _, r := range c.Requests {
			if r.Status == http.StatusOK && when(r.Start, r.End) {
				all[r.Server]++
			}
		}
	}
	return all
}

// checkWaypoints holds the waypoints' own side: their connections are not captured
// again, and their proxies count as many requests as clients and servers.
func (e *evidence) checkWaypoints(missing witnesses) []report.Check {
	if len(e.replicas) == 0 {
		return nil
	}
	captured := 0
	for s, lines := range e.ledger.active {
		if !e.isReplica(s.pod) {
			continue
		}
		for _, l := range lines {
			if l.Peer.IsValid() && plain(l.Peer) != plain(l.Asked) && !e.worlds(s.pod, l) {
				captured++
			}
		}
	}
	checks := []report.Check{missing.limit(report.Checkf("a waypoint's own connections are left alone", captured == 0,
		"%d were redirected", captured), kernel)}
	for _, c := range e.checkForwarded() {
		checks = append(checks, missing.limit(c, servers|clients))
	}
	return checks
}

// worlds reports whether a line is of the world's own question to a pod, as a forwarded
// port makes it: inside the pod's network and outside its cgroup, where nobody sees what
// was asked.
func (e *evidence) worlds(pod string, l probe.Line) bool {
	return !l.Asked.IsValid() && e.isForwarded(pod, l.Peer)
}

func (e *evidence) isForwarded(pod string, at netip.AddrPort) bool {
	return at.Addr().Unmap().IsLoopback() && slices.Contains(e.pods[pod].Forwarded, at.Port())
}

func (e *evidence) checkForwarded() []report.Check {
	asked, served := 0, 0
	for _, le := range e.loads {
		if le.load.Interrupted {
			return nil // what was cut is counted in one place and not in another
		}
		for _, c := range le.conns {
			asked += len(c.Requests)
			for _, n := range e.requestsOf(c.ID) {
				served += n
			}
		}
	}
	if asked == 0 {
		return nil
	}
	c := report.Checkf("clients, servers and the waypoint's proxy count the same requests",
		served == asked && e.forwarded.sum() == uint64(asked), "clients %d, servers %d, the proxy %d (%s)",
		asked, served, e.forwarded.sum(), counts(e.forwarded.by))
	if e.forwarded.err != nil && served == asked {
		c.Verdict, c.Detail = report.Inconclusive, e.forwarded.err.Error()
	}
	return []report.Check{c}
}
