package kind

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/scenario/kube"
)

// Expressible reports what of a scenario cannot be shown on any cluster: what Kubernetes
// has not, or what this package has no means to make or to judge on it; nil where there is
// nothing. What this or that cluster cannot do, for want of a family or of nodes, comes out
// when the scenario runs.
func Expressible(s scenario.Scenario) error {
	if err := buildable(s.Topology); err != nil {
		return err
	}
	for _, o := range s.AllObjects() {
		if err := declarable(s.Topology, o); err != nil {
			return err
		}
	}
	if err := errors.Join(sameReplicas(s), serversAlone(s)); err != nil {
		return err
	}
	now := s.Objects
	for i, ph := range s.Phases {
		for _, a := range slices.Concat(ph.Before, ph.During) {
			if err := doable(a); err != nil {
				return fmt.Errorf("phase %d: %w", i+1, err)
			}
		}
		now = after(now, ph.Before)
		then := after(now, ph.During)
		for j, l := range ph.Loads {
			err := askable(s.Topology, now, l, l.Want)
			if err == nil && l.Then != nil {
				err = askable(s.Topology, then, l, *l.Then)
			}
			if err != nil {
				return fmt.Errorf("phase %d: load %d: %w", i+1, j+1, err)
			}
		}
		now = then
	}
	return nil
}

// after is what is declared when actions have been done.
func after(o scenario.Objects, done []scenario.Action) scenario.Objects {
	for _, a := range done {
		if apply, is := a.(scenario.Apply); is {
			o = apply.Objects
		}
	}
	return o
}

// buildable says what this world cannot do of a topology.
func buildable(t scenario.Topology) error {
	switch t.Mesh {
	case scenario.Duomesh:
	case scenario.NoMesh:
		return fmt.Errorf("%w: mesh %s: kube-proxy answers for every service of a cluster", scenario.ErrNotExpressible, t.Mesh)
	case scenario.DNAT:
		return fmt.Errorf("%w: mesh %s: on a cluster that is kube-proxy, which knows no weights and is judged here for pods outside the mesh alone",
			scenario.ErrNotExpressible, t.Mesh)
	default:
		return fmt.Errorf("%w: mesh %s: it is none of this world's", scenario.ErrNotExpressible, t.Mesh)
	}
	for _, n := range t.Nodes {
		if known := (scenario.Place{Region: n.Place.Region, Zone: n.Place.Zone}); n.Place != known || placed(n) && n.Place.Zone == "" {
			return fmt.Errorf("%w: node %s: a place in this world is a zone of a region, and no subzone, network or cluster", scenario.ErrNotExpressible, n.Name)
		}
		for _, p := range n.Pods {
			if p.Addresses > 1 {
				return fmt.Errorf("%w: pod %s: a pod of Kubernetes has one address of each family", scenario.ErrNotExpressible, p.Name)
			}
		}
	}
	return nil
}

// declarable says what no cluster can have of objects, or this world cannot give it.
func declarable(t scenario.Topology, o scenario.Objects) error {
	waypoints := t.Waypoints()
	for _, p := range o.Unready {
		if slices.Contains(waypoints, p) {
			return fmt.Errorf("%w: waypoint %s is not ready: its own program says that it is", scenario.ErrNotExpressible, p)
		}
	}
	for _, w := range o.Waypoints {
		nodes := map[string]string{}
		for _, p := range w.Pods {
			node := nodeOf(t, p)
			if other, taken := nodes[node]; taken {
				return fmt.Errorf("%w: waypoint %s: %s and %s are on one node, where this world does not tell the pods of a Deployment apart",
					scenario.ErrNotExpressible, w.Name, other, p)
			}
			nodes[node] = p
		}
	}
	for _, s := range o.Services {
		if !locatable(t, s.Balance) {
			return fmt.Errorf("%w: service %s: locality %s %v: which endpoints that chooses is not known here of nodes like these",
				scenario.ErrNotExpressible, s.Name, s.Balance.Mode, s.Balance.Prefer)
		}
	}
	_, err := kube.Render(o, imagined(t, o))
	return err
}

// locatable reports whether it is known on a cluster which endpoints a policy chooses.
func locatable(t scenario.Topology, b scenario.Balance) bool {
	zones := !slices.ContainsFunc(t.Nodes, func(n scenario.Node) bool { return n.Place.Zone == "" })
	switch {
	case b.Mode == intent.Any:
		return true
	case b.Mode == intent.Strict:
		return byNode(b) && len(b.Prefer) == 1
	case b.Mode != intent.Failover || len(b.Prefer) == 0:
		return false
	case byNode(b):
		return len(t.Nodes) < 3 // of two nodes the other one is the next, wherever it stands
	}
	return zones && b.Prefer[len(b.Prefer)-1] == intent.ScopeZone
}

func nodeOf(t scenario.Topology, pod string) string {
	for _, n := range t.Nodes {
		if slices.ContainsFunc(n.Pods, func(p scenario.Pod) bool { return p.Name == pod }) {
			return n.Name
		}
	}
	return ""
}

// imagined is a cluster that has given addresses to everything.
func imagined(t scenario.Topology, o scenario.Objects) kube.World {
	ipv4, ipv6 := netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")
	w := kube.World{
		Namespace: "imagined", Services: map[string][]netip.Addr{}, Pods: map[string]kube.Pod{}, Ranges: []netip.Prefix{ipv4, ipv6},
	}
	a := addresses{ipv4: ipv4, ipv6: ipv6, numbers: map[string]uint32{}, given: map[string][]netip.Addr{}}
	for _, s := range o.Services {
		w.Services[s.Name], _ = a.of(s) // the prefixes hold enough
	}
	pod := []netip.Addr{netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("fd00:10:244::2")}
	for _, n := range t.Nodes {
		for _, p := range n.Pods {
			w.Pods[p.Name] = kubePod(p, pod)
		}
	}
	return w
}

// sameReplicas refuses waypoints that become others while a scenario runs.
func sameReplicas(s scenario.Scenario) error {
	all := gateways{}
	for _, o := range s.AllObjects() {
		if _, err := all.add(s.Topology, o); err != nil {
			return err
		}
	}
	return nil
}

// serversAlone refuses pods of one family that are more than endpoints: as clients, or asked
// for themselves, they have the cluster's other family, too.
func serversAlone(s scenario.Scenario) error {
	for _, n := range s.Topology.Nodes {
		for _, p := range n.Pods {
			if !ofOneFamily(p) {
				continue
			}
			alone := !p.Managed && !p.Waypoint
			for _, ph := range s.Phases {
				for _, l := range ph.Loads {
					alone = alone && !slices.Contains(l.From, p.Name) && l.To.Pod != p.Name
				}
			}
			if !alone {
				return fmt.Errorf("%w: pod %s: one family: but for services that know it as an endpoint it has all of the cluster's", scenario.ErrNotExpressible, p.Name)
			}
		}
	}
	return nil
}

// doable says which actions this world cannot carry out.
func doable(a scenario.Action) error {
	switch a.(type) {
	case scenario.Apply, scenario.Enrol, scenario.Leave, scenario.StopServer,
		scenario.KillAgent, scenario.StartAgent, scenario.KillWaypoint, scenario.StartWaypoint:
		return nil
	}
	return fmt.Errorf("%w: this world cannot %s on a cluster", scenario.ErrNotExpressible, a)
}

// askable says what cannot come out on a cluster as a load wants it.
func askable(t scenario.Topology, o scenario.Objects, l scenario.Load, w scenario.Want) error {
	if l.To.Service == "" {
		return nil
	}
	if err := namesProtocol(o, l.To); err != nil {
		return err
	}
	if w.Outcome != scenario.RefusedByPeer {
		return nil
	}
	// Left alone, and so kube-proxy's.
	switch s, _, there := portOf(o, l.To); {
	case l.To.Protocol == scenario.UDP || !there:
		return fmt.Errorf("%w: %s: whether anybody says that a port is not there is for the cluster's network to say", scenario.ErrNotExpressible, l.To)
	case l.Requests > 0:
		return fmt.Errorf("%w: %s: HTTP outside the mesh is not judged yet", scenario.ErrNotExpressible, l.To)
	case !kube.Selects(s, imagined(t, o)):
		return fmt.Errorf("%w: %s: kube-proxy does not know its endpoints", scenario.ErrNotExpressible, l.To)
	case s.Balance.Mode != intent.Any:
		return fmt.Errorf("%w: %s: kube-proxy has a locality of its own, which is not judged yet", scenario.ErrNotExpressible, l.To)
	}
	return nil
}

// namesProtocol refuses a target whose service declares the port for the other
// protocol alone, which the workload API cannot say, and one of UDP that no service
// declares: that is left to the network, which may drop it without a word.
func namesProtocol(o scenario.Objects, t scenario.Target) error {
	if t.Service == "" {
		return nil
	}
	if _, _, there := portOf(o, t); there {
		return nil
	}
	other := t
	if other.Protocol = scenario.UDP; t.Protocol == scenario.UDP {
		other.Protocol = scenario.TCP
	}
	switch _, _, there := portOf(o, other); {
	case there:
		return fmt.Errorf("%w: %s: istiod's workload API names no protocol, the port is there for both", scenario.ErrNotExpressible, t)
	case t.Protocol == scenario.UDP:
		return fmt.Errorf("%w: %s: whether anybody says that a UDP port is not there is for the cluster's network to say", scenario.ErrNotExpressible, t)
	}
	return nil
}

// portOf is the service and port that a target names, of its protocol.
func portOf(o scenario.Objects, t scenario.Target) (scenario.Service, scenario.Port, bool) {
	for _, s := range o.Services {
		for _, p := range s.Ports {
			if s.Name == t.Service && p.Port == t.Port && (p.Protocol == scenario.UDP) == (t.Protocol == scenario.UDP) {
				return s, p, true
			}
		}
	}
	return scenario.Service{}, scenario.Port{}, false
}
