package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// judge is the probe that watches every pod of a phase.
type judge struct{ *probe.Probe }

// socket names one socket of the run.
type socket struct {
	pod    string
	cookie uint64
}

// ledger is what the kernel said, by socket.
type ledger struct {
	probe.Ledger
	active  map[socket][]probe.Line
	passive map[socket][]probe.Line
}

func openJudge(ctx context.Context, pods map[string]scenario.PodHandle, o probe.Options) (*judge, error) {
	var targets []probe.Target
	for _, h := range pods {
		targets = append(targets, Target(h))
	}
	p, err := probe.Open(ctx, targets, o)
	if err != nil {
		return nil, fmt.Errorf("open the judge: %w", err)
	}
	return &judge{p}, nil
}

// watched are the options of the judge of a phase.
func (g *gatherer) watched(ph scenario.Phase, e *evidence) (probe.Options, error) {
	o := probe.Options{RingBytes: g.options.JudgeRing, By: g.options.By, Log: g.options.Log}
	for i, l := range ph.Loads {
		if !isUDP(l) {
			continue
		}
		o.UDP = true
		asked, err := g.world.Resolve(l.To)
		if err != nil {
			return o, fmt.Errorf("load %d: %w", i+1, err)
		}
		o.Named = append(o.Named, asked)
	}
	if o.UDP {
		o.Named = append(o.Named, e.datagramServers(g.topology)...)
	}
	return o, nil
}

// datagramServers are the addresses where the pods serve UDP.
func (e *evidence) datagramServers(t scenario.Topology) []netip.AddrPort {
	var all []netip.AddrPort
	for _, n := range t.Nodes {
		for _, p := range n.Pods {
			for _, port := range p.ServeUDP {
				for _, a := range e.pods[p.Name].Addresses {
					all = append(all, netip.AddrPortFrom(a, port))
				}
			}
		}
	}
	return all
}

// Target is a pod of a world as a probe watches it. The descriptors stay the world's.
func Target(h scenario.PodHandle) probe.Target {
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

// settleTime bounds the wait for connections to close after the last client has
// ended; one that is open longer is judged as it stands.
const settleTime = 10 * time.Second

// ledger reads everything up to this moment, connections that are closing
// included.
func (j *judge) ledger(ctx context.Context) (ledger, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	l, err := j.Settle(ctx)
	if err != nil {
		return ledger{}, fmt.Errorf("read the ledger: %w", err)
	}
	return bySocket(l), nil
}

func bySocket(l probe.Ledger) ledger {
	out := ledger{Ledger: l, active: map[socket][]probe.Line{}, passive: map[socket][]probe.Line{}}
	for _, line := range l.Lines {
		s := socket{line.Pod, line.Cookie}
		switch line.Role {
		case probe.RoleActive:
			out.active[s] = append(out.active[s], line)
		case probe.RolePassive:
			out.passive[s] = append(out.passive[s], line)
		}
	}
	return out
}

func (l ledger) providers() map[string]string {
	names := map[string]string{}
	for k, p := range l.Providers {
		names[k.String()] = p.Name
	}
	return names
}

func (e *evidence) checkLost() report.Check {
	c := report.Check{Name: "the judge missed nothing", Verdict: report.Pass, Detail: e.ledger.Lost.String()}
	blind := e.ledger.Blind()
	if len(blind) > 0 {
		c.Detail += fmt.Sprintf("; nothing on this kernel sees %v", blind)
	}
	if !e.ledger.Lost.Whole() || len(blind) > 0 {
		c.Verdict = report.Inconclusive
	}
	return c
}

// checkWire holds the packet counters of each client pod's own link end, for
// each address that was asked for: as many SYNs as connections that had to
// carry it, and not one packet when none had to.
func (e *evidence) checkWire(all []group) []report.Check {
	var checks []report.Check
	for _, k := range e.askedFrom(false) {
		want := wantSYNs(all, k)
		syns, packets := 0, uint64(0)
		for _, line := range e.ledger.Lines {
			if line.Pod == k.pod && line.Role == probe.RoleActive {
				syns += countSYNs(line.Wire, k.asked)
			}
		}
		for _, s := range e.ledger.Stray {
			if s.Pod == k.pod && s.Dst == k.asked && s.Direction == probe.Out && s.Side == probe.SidePod {
				syns++
			}
		}
		for _, w := range e.ledger.Leaks(k.pod, k.asked) {
			packets += w.Packets
		}
		ok := syns == want && (want > 0 || packets == 0)
		checks = append(checks, report.Checkf(
			fmt.Sprintf("packets of %s to %s", k.pod, k.asked), ok,
			"%d SYNs, want %d; %d packets on both ends of the link", syns, want, packets))
	}
	return checks
}

func countSYNs(wire []probe.SYN, to netip.AddrPort) int {
	n := 0
	for _, s := range wire {
		if s.Side == probe.SidePod && s.Direction == probe.Out && s.Dst == to {
			n++
		}
	}
	return n
}

type podAsked struct {
	pod   string
	asked netip.AddrPort
}

// askedFrom lists the pairs of client pod and address of one protocol, in the
// order of loads.
func (e *evidence) askedFrom(udp bool) []podAsked {
	var keys []podAsked
	seen := map[podAsked]bool{}
	for _, le := range e.loads {
		if isUDP(le.load) != udp {
			continue
		}
		for _, pod := range le.load.From {
			if k := (podAsked{pod, plain(le.asked)}); !seen[k] {
				seen[k] = true
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// wantSYNs counts the connections whose first packet must carry the address.
func wantSYNs(all []group, k podAsked) int {
	n := 0
	for _, g := range all {
		for _, f := range g.facts {
			want, sent := f.wantPeer(f.followed(g.wants))
			if f.pod == k.pod && sent && want == k.asked && !isUDP(*f.load) {
				n++
			}
		}
	}
	return n
}

// write keeps the evidence of a phase that did not pass, as JSON files.
func (e *evidence) write(dir, name string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep evidence: %w", err)
	}
	clients := map[string][]clientConn{}
	for _, le := range e.loads {
		clients[le.load.To.String()] = le.conns
	}
	return errors.Join(
		writeJSON(dir, name+".clients.json", clients),
		writeJSON(dir, name+".servers.json", e.served),
		writeJSON(dir, name+".ledger.json", e.ledger.Ledger),
	)
}
