package kind

import (
	"slices"

	"github.com/duomesh/duomesh/internal/scenario"
)

var _ scenario.Adapter = (*Cluster)(nil)

// Adapt implements scenario.Adapter: a pod outside the mesh that asks for a service is
// served by kube-proxy, which rewrites its packets and not its socket. Its node keeps what
// it has rewritten for a while, and gives another port to a connection between the same
// two ends, whether the mesh makes it or kube-proxy.
func (c *Cluster) Adapt(s scenario.Scenario) (scenario.Scenario, error) {
	if err := Expressible(s); err != nil {
		return s, err
	}
	return adapt(s), nil
}

func adapt(s scenario.Scenario) scenario.Scenario {
	now := s.Objects
	s.Phases = slices.Clone(s.Phases)
	for i := range s.Phases {
		ph := &s.Phases[i]
		now = after(now, ph.Before)
		then := after(now, ph.During)
		ph.Loads = slices.Clone(ph.Loads)
		for j := range ph.Loads {
			l := &ph.Loads[j]
			l.Want = leftAlone(s.Topology, now, l.To, l.Want)
			if l.Then != nil {
				w := leftAlone(s.Topology, then, l.To, *l.Then)
				l.Then = &w
			}
		}
		now = then
	}
	for _, ph := range s.Phases {
		for j := range ph.Loads {
			if l := &ph.Loads[j]; slices.ContainsFunc(l.From, func(p string) bool { return rewritten(s, p) }) {
				anyPort(l)
			}
		}
	}
	return s
}

// rewritten reports whether kube-proxy rewrites connections of a pod at any time, beside
// such as nobody does.
func rewritten(s scenario.Scenario, pod string) bool {
	ways := map[scenario.Via]bool{}
	for _, ph := range s.Phases {
		for _, l := range ph.Loads {
			if !slices.Contains(l.From, pod) || l.To.Service == "" {
				continue
			}
			ways[l.Want.Via] = true
			if l.Then != nil {
				ways[l.Then.Via] = true
			}
		}
	}
	return ways[scenario.ViaDNAT] && ways[scenario.ViaSocket]
}

func anyPort(l *scenario.Load) {
	l.Want.AnyPort = true
	if l.Then != nil {
		w := *l.Then
		w.AnyPort = true
		l.Then = &w
	}
}

// leftAlone is what becomes of connections that the mesh leaves alone, where w says that
// the asked address refuses: any of the service's endpoints answers. A service without
// one is refused by the node.
func leftAlone(t scenario.Topology, o scenario.Objects, to scenario.Target, w scenario.Want) scenario.Want {
	s, port, there := portOf(o, to)
	if w.Outcome != scenario.RefusedByPeer || !there {
		return w
	}
	served := scenario.Want{
		Outcome: scenario.Connected, Via: scenario.ViaDNAT, Port: port.Target,
		Split: map[string]float64{}, Ports: map[string]uint16{},
	}
	for _, e := range s.Endpoints {
		if target := targetOf(e, port, podOf(t, e.Pod)); target != 0 && chosen(o, s, e) {
			served.Split[e.Pod], served.Ports[e.Pod] = 0, target
		}
	}
	if len(served.Split) == 0 {
		return w
	}
	for pod := range served.Split {
		served.Split[pod] = 1 / float64(len(served.Split))
	}
	served.Unweighed = len(served.Split) > 1 // which of them is kube-proxy's own affair
	return served
}

// chosen reports whether an endpoint is one that its service chooses.
func chosen(o scenario.Objects, s scenario.Service, e scenario.Endpoint) bool {
	return e.Weight > 0 && (s.PublishNotReady || !slices.Contains(o.Unready, e.Pod))
}

// targetOf is a service's port at one of its endpoints: the endpoint's own, the pod's by
// its name, or the service's; 0 where the pod has none of that name.
func targetOf(e scenario.Endpoint, port scenario.Port, pod scenario.Pod) uint16 {
	switch own := e.Ports[port.Port]; {
	case own != 0:
		return own
	case port.TargetName != "":
		return pod.Ports[port.TargetName]
	}
	return port.Target
}

func podOf(t scenario.Topology, name string) scenario.Pod {
	for _, n := range t.Nodes {
		for _, p := range n.Pods {
			if p.Name == name {
				return p
			}
		}
	}
	return scenario.Pod{}
}
