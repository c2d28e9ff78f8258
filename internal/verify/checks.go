package verify

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// rule is one statement about one connection; it returns what is wrong, or "".
type rule struct {
	name  string
	holds func(f fact, w scenario.Want) string
	// needs are the witnesses that the statement rests on beside the client.
	needs witnesses
}

// rulesOf are held against every connection of a load. Each has a negative control
// in e2e: a mesh broken from outside that must fail it. The first is the outcome.
func rulesOf(l scenario.Load) []rule {
	switch {
	case isUDP(l):
		return udpRules[:]
	case viaWaypoint(l):
		return waypointRules[:]
	}
	return tcpRules[:]
}

var tcpRules = [...]rule{
	{"the application saw what is declared", ruleOutcome, 0},
	{"client and kernel agree on what was asked", ruleAsked, kernel},
	{"client and server agree", ruleServer, servers},
	{"getpeername answers the asked address", rulePeerName, 0},
	{"the server sees the client's own address", ruleSource, 0},
	{"the way is as declared", ruleVia, 0},
	{"the socket's peer is as declared", rulePeer, kernel},
	{"the server's kernel saw it arrive", ruleAccepted, kernel},
	{"the first packet went as declared", ruleFirstPacket, kernel}, // or was never made
}

func (g group) judge(missing witnesses) []report.Check {
	var checks []report.Check
	for _, r := range g.rules {
		// Of servers that are silent, hold has told which connections are theirs.
		checks = append(checks, missing.limit(g.hold(r), r.needs&kernel))
	}
	for _, c := range g.checkReplicas() {
		checks = append(checks, missing.limit(c, kernel))
	}
	checks = append(checks, g.checkHarness())
	if len(g.wants) == 1 && g.wants[0].Outcome == scenario.Connected && !g.byRequest {
		check := scenario.CheckSplit
		if g.wants[0].Unweighed {
			check = scenario.CheckExact
		}
		for _, c := range check(g.name+":", g.wants[0].Split, g.servers()) {
			checks = append(checks, missing.limit(c, servers|clients))
		}
	}
	return checks
}

// hold holds a rule against every connection: a connection that may follow one
// of two wants must follow one of them whole.
func (g group) hold(r rule) report.Check {
	broken, untold, example := 0, 0, ""
	for _, f := range g.facts {
		problem := r.holds(f, f.followed(g.wants))
		switch {
		case problem == "":
		case r.needs&servers != 0 && f.untold():
			untold++
		default:
			broken++
			if example == "" {
				example = fmt.Sprintf("; first: pod %s cookie %d: %s", f.pod, f.Cookie, problem)
			}
		}
	}
	c := report.Checkf(g.name+": "+r.name, broken == 0, "%d of %d connections break it%s",
		broken, len(g.facts), example)
	if untold > 0 {
		c.Verdict = c.Verdict.Worse(report.Inconclusive)
		c.Detail += fmt.Sprintf("; of %d their server does not tell", untold)
	}
	return c
}

// followed is the want that a connection followed whole; none of two: the first
// whose outcome it had.
func (f fact) followed(wants []scenario.Want) scenario.Want {
	best := wants[0]
	for _, w := range slices.Backward(wants) {
		if rulesOf(*f.load)[0].holds(f, w) == "" {
			best = w
		}
	}
	for _, w := range wants {
		if f.follows(w) {
			return w
		}
	}
	return best
}

func (f fact) follows(w scenario.Want) bool {
	for _, r := range rulesOf(*f.load) {
		if r.holds(f, w) != "" {
			return false
		}
	}
	return true
}

func (g group) servers() map[string]int {
	n := map[string]int{}
	for _, f := range g.facts {
		for _, s := range f.servers {
			n[f.seen.place(s)]++
		}
	}
	return n
}

// checkHarness finds errors that say nothing of the mesh.
func (g group) checkHarness() report.Check {
	n := 0
	for _, f := range g.facts {
		if slices.Contains([]string{"EADDRNOTAVAIL", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"}, f.Errno) {
			n++
		}
	}
	c := report.Checkf(g.name+": the harness had ports and descriptors", n == 0, "%d connections lacked them", n)
	if n > 0 {
		c.Verdict = report.Inconclusive
	}
	return c
}

// ruleOutcome holds what the application saw. Who refused is a matter of
// packets: ruleFirstPacket.
func ruleOutcome(f fact, w scenario.Want) string {
	if w.Outcome != scenario.Connected {
		if f.Errno != "ECONNREFUSED" || f.Op != "connect" {
			return fmt.Sprintf("%s, want %s", f.saw(), w.Outcome)
		}
		return ""
	}
	if f.Errno != "" {
		return fmt.Sprintf("%s, want %s", f.saw(), w.Outcome)
	}
	if f.Sent != f.Received {
		return fmt.Sprintf("%d bytes sent, %d came back", f.Sent, f.Received)
	}
	at := f.Server
	if len(f.servers) == 1 && f.servers[0].pod == at {
		at = f.seen.place(f.servers[0])
	}
	if _, declared := w.Split[at]; !declared {
		return "served by " + at + ", which is not declared"
	}
	return ""
}

func (f fact) saw() string {
	if f.Errno == "" {
		return string(scenario.Connected)
	}
	return f.Op + ": " + f.Errno
}

func ruleAsked(f fact, _ scenario.Want) string {
	if len(f.lines) != 1 {
		return fmt.Sprintf("%d lines in the ledger, want 1", len(f.lines))
	}
	if got := f.lines[0].Asked; plain(got) != plain(f.Asked) {
		return fmt.Sprintf("the kernel saw %s asked, the client asked %s", got, f.Asked)
	}
	return ""
}

func ruleServer(f fact, w scenario.Want) string {
	if w.Outcome != scenario.Connected {
		if len(f.servers) != 0 {
			return "refused, and yet served by " + f.servers[0].pod
		}
		return ""
	}
	if len(f.servers) != 1 {
		return fmt.Sprintf("%d servers report it, want 1", len(f.servers))
	}
	s := f.servers[0]
	if s.pod != f.Server {
		return fmt.Sprintf("the client was served by %s, %s reports it", f.Server, s.pod)
	}
	if want := w.PortOf(s.pod); s.Local.Port() != want {
		return fmt.Sprintf("served on port %d, want %d", s.Local.Port(), want)
	}
	return ""
}

func rulePeerName(f fact, w scenario.Want) string {
	if w.Outcome == scenario.Connected && f.Peer != f.Asked {
		return fmt.Sprintf("%s, asked for %s", f.Peer, f.Asked)
	}
	return ""
}

func ruleSource(f fact, w scenario.Want) string {
	for _, s := range f.servers {
		if plain(s.Peer) != plain(f.Local) && (!w.AnyPort || s.Peer.Addr().Unmap() != f.Local.Addr().Unmap()) {
			return fmt.Sprintf("the server sees %s, the client has %s", s.Peer, f.Local)
		}
	}
	return ""
}

// ruleVia holds where the server was reached against what was asked: the same
// address where nothing stands between, another where something redirects.
func ruleVia(f fact, w scenario.Want) string {
	if w.Outcome != scenario.Connected || len(f.servers) != 1 {
		return "" // ruleServer has failed
	}
	at, asked := plain(f.servers[0].Local), plain(f.Asked)
	if w.Via == scenario.ViaNone && at != asked {
		return fmt.Sprintf("served at %s, asked for %s, and nothing was to redirect", at, asked)
	}
	if w.Via != scenario.ViaNone && at == asked {
		return fmt.Sprintf("served at %s as asked: nothing has redirected", at)
	}
	return ""
}

// rulePeer holds the kernel's own view of the client's socket.
func rulePeer(f fact, w scenario.Want) string {
	want, ok := f.wantPeer(w)
	if !ok || len(f.lines) != 1 {
		return "" // refused before any state, or rule "asked" has failed
	}
	if got := plain(f.lines[0].Peer); got != want {
		return fmt.Sprintf("%s, want %s", got, want)
	}
	return ""
}

// wantPeer is the address in the socket after connect; none for a connection
// that the mesh refused.
func (f fact) wantPeer(w scenario.Want) (netip.AddrPort, bool) {
	switch {
	case w.Outcome == scenario.RefusedByMesh:
		return netip.AddrPort{}, false
	case w.MayFail() || w.Via == scenario.ViaWaypoint:
		return f.replica(w)
	case w.Outcome != scenario.Connected || w.Via != scenario.ViaSocket:
		return plain(f.Asked), true
	case len(f.servers) == 1:
		return plain(f.servers[0].Local), true
	}
	return f.declaredPeer(w), true
}

// declaredPeer is the address in the socket of a redirected connection that no server
// reports, where that is one of a declared pod and of the one that the client names;
// else one that is not valid, and equals nothing.
func (f fact) declaredPeer(w scenario.Want) netip.AddrPort {
	if len(f.lines) != 1 {
		return netip.AddrPort{}
	}
	peer := plain(f.lines[0].Peer)
	for pod := range f.seen.pods {
		name, own := f.seen.placeAt(pod, peer.Addr())
		if _, declared := w.Split[name]; own && declared && peer.Port() == w.PortOf(pod) && (f.Server == "" || f.Server == pod) {
			return peer
		}
	}
	return netip.AddrPort{}
}

func ruleAccepted(f fact, w scenario.Want) string {
	if w.Outcome != scenario.Connected || len(f.servers) != 1 {
		return ""
	}
	s := f.servers[0]
	for _, l := range f.accepted {
		if plain(l.Local) != plain(s.Local) || plain(l.Peer) != plain(s.Peer) {
			continue
		}
		dst := l.WireDst(probe.SidePod)
		switch {
		case f.isHairpin() && len(dst) > 0:
			return fmt.Sprintf("%s has reached itself, and yet a SYN came by its link, to %s", s.pod, addresses(dst))
		case !f.isHairpin() && (len(dst) != 1 || dst[0] != plain(s.Local)):
			return fmt.Sprintf("SYN on the link of %s to %s, want %s", s.pod, addresses(dst), s.Local)
		}
		return ""
	}
	return fmt.Sprintf("%d kernel lines for the socket of %s, none from %s", len(f.accepted), s.pod, s.Peer)
}

// ruleFirstPacket holds the SYN on the client's own link.
func ruleFirstPacket(f fact, w scenario.Want) string {
	if len(f.lines) != 1 {
		return ""
	}
	got := f.lines[0].WireDst(probe.SidePod)
	want, sent := f.wantPeer(w)
	if !sent {
		if len(got) > 0 || f.lines[0].SynSentAt != 0 {
			return fmt.Sprintf("refused by the mesh, and yet the socket began to connect; packets to %s", addresses(got))
		}
		return ""
	}
	if f.isHairpin() {
		if len(got) > 0 || f.lines[0].SynSentAt == 0 {
			return fmt.Sprintf("%s has reached itself, and yet its link had a SYN to %s", f.pod, addresses(got))
		}
		return ""
	}
	if len(got) != 1 || plain(got[0]) != want {
		return fmt.Sprintf("SYN to %s, want %s", addresses(got), want)
	}
	return ""
}

// isHairpin is true where a pod is its own server: the packets are on its loopback
// interface, and none on its link.
func (f fact) isHairpin() bool {
	return len(f.servers) == 1 && f.servers[0].pod == f.pod
}

func addresses(list []netip.AddrPort) string {
	if len(list) == 0 {
		return "nowhere"
	}
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}
