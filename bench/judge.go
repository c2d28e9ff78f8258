package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// ProbeJudge is the usual Judge: kernel probes on both pods. It holds what the
// application asked, where the socket really went and what was on the wire
// against the way that the variant is meant to go.
func ProbeJudge(ctx context.Context, t JudgeTask) (_ []report.Check, err error) {
	asked, err := netip.ParseAddrPort(t.Asked)
	if err != nil {
		return nil, fmt.Errorf("asked address: %w", err)
	}
	p, err := probe.Open(ctx, []probe.Target{watched(t.Client), watched(t.Server)}, probe.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	n, err := t.Drive(ctx)
	if err != nil {
		return nil, err
	}
	settled, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	ledger, err := p.Settle(settled)
	if err != nil {
		return nil, err
	}
	return []report.Check{judgement(t, asked, ledger, n)}, nil
}

func watched(h scenario.PodHandle) probe.Target {
	t := probe.Target{Pod: h.Name, Netns: h.Netns, Cgroup: h.Cgroup}
	for _, l := range h.Links {
		side := probe.SideHost
		if l.InPod {
			side = probe.SidePod
		}
		t.Links = append(t.Links, probe.Link{Netns: l.Netns, Ifindex: l.Ifindex, Side: side})
	}
	return t
}

// judgement is one check for a variant: all its connections, or the first that
// went another way.
func judgement(t JudgeTask, asked netip.AddrPort, l probe.Ledger, connections int64) report.Check {
	server := netip.AddrPortFrom(t.Server.IPv4, t.ServerPort)
	peer := asked
	if t.Via == scenario.ViaSocket {
		peer = server
	}
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
		case line.Pod == t.Server.Name && line.Role == probe.RolePassive && line.Local == server:
			accepted++
		}
	}
	leaks := leaked(t, asked, l)
	c := report.Checkf("judge: "+t.Name,
		connections > 0 && went == connections && accepted == connections && wrong == "" && leaks == 0,
		"client opened %d, kernel saw %d go via %s, server accepted %d, %d packets to the service address where none may be; %s%s",
		connections, went, t.Via, accepted, leaks, l.Lost, wrong)
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
	case scenario.ViaSocket:
		pods = []string{t.Client.Name, t.Server.Name}
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
