package verify

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// The kernel has no state of a UDP conversation that could be watched: a socket
// asks, and datagrams pass. So what each socket asked comes from the judge's line,
// where its datagrams went from the counters of the links, which are exact, and
// who answered from both ends.

func isUDP(l scenario.Load) bool { return l.To.Protocol == scenario.UDP }

var udpRules = [...]rule{
	{"the application saw what is declared", ruleOutcomeUDP, 0},
	{"client and kernel agree on what was asked", ruleAskedUDP, kernel},
	{"client and server agree", ruleServerUDP, servers},
	{"getpeername answers the asked address", rulePeerNameUDP, 0},
	{"answers come from the asked address", ruleFrom, 0},
	{"the server sees the client's own address", ruleSource, 0},
	{"the way is as declared", ruleVia, 0},
}

// datagrams is how many each socket of the load sends.
func datagrams(l scenario.Load) int { return max(l.Datagrams, 1) }

// ruleOutcomeUDP: the mesh refuses where the address is named, a peer that does
// not listen where the answer is waited for.
func ruleOutcomeUDP(f fact, w scenario.Want) string {
	if w.Outcome == scenario.Connected {
		return ruleOutcome(f, w)
	}
	op := "recvfrom"
	if w.Outcome == scenario.RefusedByMesh {
		op = "connect"
		if f.load.Unconnected {
			op = "sendto"
		}
	}
	if f.Errno != "ECONNREFUSED" || f.Op != op {
		return fmt.Sprintf("%s, want %s by %s", f.saw(), w.Outcome, op)
	}
	return ""
}

func ruleAskedUDP(f fact, w scenario.Want) string {
	if problem := ruleAsked(f, w); problem != "" {
		return problem
	}
	sends := 0
	if f.load.Unconnected {
		sends = max(f.Datagrams, 1) // a send that was refused was asked all the same
	}
	if got := f.lines[0]; got.Sends != sends || got.Protocol != unix.IPPROTO_UDP {
		return fmt.Sprintf("the kernel saw %d sends of protocol %d, the client made %d", got.Sends, got.Protocol, sends)
	}
	return ""
}

func ruleServerUDP(f fact, w scenario.Want) string {
	if problem := ruleServer(f, w); problem != "" || w.Outcome != scenario.Connected {
		return problem
	}
	if got, want := f.servers[0].Datagrams, datagrams(*f.load); got != want || f.Datagrams != want {
		return fmt.Sprintf("the client sent %d datagrams, %s received %d, want %d", f.Datagrams, f.servers[0].pod, got, want)
	}
	return ""
}

func rulePeerNameUDP(f fact, w scenario.Want) string {
	if f.load.Unconnected {
		return "" // it has no peer: ruleFrom
	}
	return rulePeerName(f, w)
}

func ruleFrom(f fact, w scenario.Want) string {
	if w.Outcome == scenario.Connected && f.From != f.Asked {
		return fmt.Sprintf("an answer comes from %s, asked was %s", f.From, f.Asked)
	}
	return ""
}

// flow is datagrams of one pod to one address.
type flow struct {
	pod string
	to  netip.AddrPort
}

// checkDatagrams holds the packet counters of the links against what both ends
// report: so many datagrams to each address, at the clients' end and at the
// servers', and none to an address that was to be replaced.
func (e *evidence) checkDatagrams(all []group) []report.Check {
	sent, arrived := wantDatagrams(all)
	for _, k := range e.askedFrom(true) {
		sent[flow{k.pod, k.asked}] += 0 // none is a statement too
	}
	checks := e.checkFlows(sent, probe.Out, "to")
	checks = append(checks, e.checkFlows(arrived, probe.In, "arriving at")...)
	for _, k := range e.askedFrom(true) {
		if sent[flow{k.pod, k.asked}] > 0 {
			continue
		}
		var packets uint64
		for _, w := range e.ledger.Leaks(k.pod, k.asked) {
			packets += w.Packets
		}
		checks = append(checks, report.Checkf(fmt.Sprintf("packets of %s to %s", k.pod, k.asked), packets == 0,
			"%d packets on both ends of the link", packets))
	}
	return checks
}

// wantDatagrams sums what clients say they sent by where it must have gone, and
// what servers say they received.
func wantDatagrams(all []group) (sent, arrived map[flow]int) {
	sent, arrived = map[flow]int{}, map[flow]int{}
	for _, g := range all {
		for _, f := range g.facts {
			if !isUDP(*f.load) {
				continue
			}
			if to, any := f.wantPeer(f.followed(g.wants)); any && to.IsValid() {
				sent[flow{f.pod, to}] += f.Datagrams
			}
			for _, s := range f.servers {
				arrived[flow{s.pod, plain(s.Local)}] += s.Datagrams
			}
		}
	}
	return sent, arrived
}

// checkFlows counts at the pods' own ends of their links.
func (e *evidence) checkFlows(want map[flow]int, d probe.Direction, word string) []report.Check {
	got := map[flow]int{}
	for _, w := range e.ledger.Wire {
		if w.Protocol == unix.IPPROTO_UDP && w.Side == probe.SidePod && w.Direction == d {
			got[flow{w.Pod, w.Dst}] += int(w.Packets)
		}
	}
	flows := make([]flow, 0, len(want))
	for k := range want {
		flows = append(flows, k)
	}
	slices.SortFunc(flows, func(a, b flow) int { return cmp.Or(cmp.Compare(a.pod, b.pod), a.to.Compare(b.to)) })
	var checks []report.Check
	for k, n := range got {
		if _, known := want[k]; !known && d == probe.Out && asks(want, k.pod) {
			checks = append(checks, report.Checkf(fmt.Sprintf("datagrams of %s to %s", k.pod, k.to), false,
				"%d on the link, nobody tells of them", n))
		}
	}
	for _, k := range flows {
		checks = append(checks, report.Checkf(fmt.Sprintf("datagrams of %s %s %s", k.pod, word, k.to), got[k] == want[k],
			"%d on the link, both ends tell of %d", got[k], want[k]))
	}
	return checks
}

func asks(want map[flow]int, pod string) bool {
	for k := range want {
		if k.pod == pod {
			return true
		}
	}
	return false
}
