package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
)

// ProbeJudge is the usual Judge: kernel probes on both pods. It holds what the
// application asked, where the socket really went and what was on the wire
// against the way that the variant is meant to go.
func ProbeJudge(ctx context.Context, t JudgeTask) (j Judgement, err error) {
	asked, err := netip.ParseAddrPort(t.Asked)
	if err != nil {
		return j, fmt.Errorf("asked address: %w", err)
	}
	targets := []probe.Target{verify.Target(t.Client), verify.Target(t.Server)}
	if t.Proxy != nil {
		targets = append(targets, verify.Target(*t.Proxy))
	}
	p, err := probe.Open(ctx, targets, probe.Options{})
	if err != nil {
		return j, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	n, err := t.Drive(ctx)
	if err != nil {
		return j, err
	}
	settled, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	ledger, err := p.Settle(settled)
	if err != nil {
		return j, err
	}
	j.Checks = []report.Check{judgement(t, asked, ledger, n)}
	j.Connects = connects(t, asked, ledger)
	return j, nil
}

// ends are where connections must be taken: their peer at the client, and the pod that
// accepts them.
func (t JudgeTask) ends(asked netip.AddrPort) (peer, local netip.AddrPort, pod string) {
	server := netip.AddrPortFrom(t.Server.IPv4, t.ServerPort)
	switch {
	case t.Captured:
		return asked, server, t.Server.Name
	case t.Proxy != nil:
		at := netip.AddrPortFrom(t.Proxy.IPv4, t.ProxyPort)
		return at, at, t.Proxy.Name
	case t.Via == scenario.ViaSocket:
		return server, server, t.Server.Name
	}
	return asked, server, t.Server.Name
}

// around counts connections that came to the server from elsewhere than the proxy.
// Behind a node proxy the server's own port alone is looked at: the tunnel's is the
// proxy's, and clients beside this one use it.
func around(t JudgeTask, local netip.AddrPort, l probe.Ledger) int {
	n := 0
	for _, line := range l.Lines {
		if t.Proxy == nil || line.Pod != t.Server.Name || line.Role != probe.RolePassive || t.Captured && line.Local != local {
			continue
		}
		if line.Peer.Addr().Unmap() != t.Proxy.IPv4 {
			n++
		}
	}
	return n
}

// judgement is one check for a variant: all its connections, or the first that
// went another way.
func judgement(t JudgeTask, asked netip.AddrPort, l probe.Ledger, connections int64) report.Check {
	peer, local, pod := t.ends(asked)
	var went, accepted int64
	wrong := ""
	for _, line := range l.Lines {
		switch {
		case line.Pod == t.Client.Name && line.Role == probe.RoleActive && line.Asked == asked:
			if line.Peer == peer && line.EstablishedAt != 0 {
				went++
			} else if wrong == "" {
				wrong = fmt.Sprintf("; first wrong: state %s, peer %s where %s was due", line.State, line.Peer, peer)
			}
		case line.Pod == pod && line.Role == probe.RolePassive && line.Local == local:
			accepted++
		}
	}
	leaks, past := leaked(t, asked, l), around(t, local, l)
	took := accepted == connections
	if t.Captured && t.Proxy != nil { // it keeps its connections to the server
		took = accepted > 0 && accepted <= connections
	}
	c := report.Checkf("judge: "+t.Name,
		connections > 0 && went == connections && took && wrong == "" && leaks == 0 && past == 0,
		"client opened %d, kernel saw %d go via %s, %s accepted %d, %d past it, %d packets to the service address where none may be; %s%s",
		connections, went, t.Via, pod, accepted, past, leaks, l.Lost, wrong)
	if blind := l.Blind(); !l.Lost.Whole() || len(blind) > 0 {
		c.Verdict = report.Inconclusive
		c.Detail += fmt.Sprintf("; not seen: %v", blind)
	}
	return c
}

// leaked counts packets to the asked address on links where it must have been
// replaced: with a socket redirect on all, behind DNAT at the server.
func leaked(t JudgeTask, asked netip.AddrPort, l probe.Ledger) uint64 {
	var pods []string
	switch t.Via {
	case scenario.ViaSocket, scenario.ViaWaypoint:
		pods = []string{t.Client.Name, t.Server.Name}
	case scenario.ViaProxy:
		if t.Captured { // a node proxy took it before any link
			pods = []string{t.Client.Name, t.Server.Name}
		}
	case scenario.ViaDNAT:
		pods = []string{t.Server.Name}
	}
	var packets uint64
	for _, pod := range pods {
		for _, w := range l.Leaks(pod, asked) {
			packets += w.Packets
		}
	}
	return packets
}
