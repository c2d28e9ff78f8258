package scenario

import (
	"errors"
	"fmt"
	"slices"
)

// Validate reports what makes a scenario useless or self-contradictory, naming
// it: an unknown pod or service, shares that do not sum to 1, a gate of too
// little power.
func (s Scenario) Validate() error {
	var all []error
	for _, err := range s.problems() {
		all = append(all, fmt.Errorf("scenario %s: %w", s.Name, err))
	}
	return errors.Join(all...)
}

// problems are those of Validate: of every pod, action, set of objects and load the
// first.
func (s Scenario) problems() []error {
	pods, all := s.podProblems()
	if len(s.Phases) == 0 {
		all = append(all, atf("phases", "no phase"))
	}
	switch s.Topology.Mesh {
	case Duomesh, DNAT, NoMesh:
	default:
		all = append(all, atf("topology.mesh", "mesh %q is none of %s, %s, %s", s.Topology.Mesh, Duomesh, DNAT, NoMesh))
	}
	s.eachObjects(func(path string, o Objects) {
		all = append(all, at(path, o.validate(pods, s.Topology.waypoints())))
	})
	for i, ph := range s.Phases {
		for _, step := range ph.actions(i) {
			if err := s.Topology.validate(step.Action); err != nil {
				all = append(all, at(step.path, fmt.Errorf("phase %d: %s: %w", i+1, step.Action, err)))
			}
		}
		for j, l := range ph.Loads {
			path := fmt.Sprintf("phases[%d].loads[%d]", i, j)
			err := l.validate(pods, s.Topology.addresses(), s.services())
			if err == nil {
				err = s.validateReplicas(l)
			}
			if l.Then != nil && len(ph.During) == 0 {
				err = atf("then", "then without anything during the phase")
			}
			if err != nil {
				all = append(all, at(path, fmt.Errorf("phase %d: load %d: %w", i+1, j+1, err)))
			}
		}
	}
	return slices.DeleteFunc(all, func(err error) bool { return err == nil })
}

// podProblems returns the names of all pods, and what is wrong with them.
func (s Scenario) podProblems() (pods map[string]bool, all []error) {
	pods = map[string]bool{}
	for i, n := range s.Topology.Nodes {
		for j, p := range n.Pods {
			path := fmt.Sprintf("topology.nodes[%d].pods[%d]", i, j)
			switch {
			case pods[p.Name]:
				all = append(all, atf(path+".name", "pod %s is declared twice", p.Name))
			case p.Waypoint && (p.Managed || len(p.Serve)+len(p.ServeFirst)+len(p.ServeUDP) > 0):
				all = append(all, atf(path, "pod %s: a waypoint is never managed and serves nothing of its own", p.Name))
			default:
				all = append(all, at(path, p.validateAddresses()))
			}
			pods[p.Name] = true
		}
	}
	return pods, all
}

// step is an action and where it stands.
type step struct {
	path string
	Action
}

// actions are all of the i'th phase, in order.
func (ph Phase) actions(i int) []step {
	var all []step
	for k, a := range ph.Before {
		all = append(all, step{fmt.Sprintf("phases[%d].before[%d]", i, k), a})
	}
	for k, a := range ph.During {
		all = append(all, step{fmt.Sprintf("phases[%d].during[%d]", i, k), a})
	}
	return all
}

// eachObjects visits the first objects and those that actions apply.
func (s Scenario) eachObjects(visit func(path string, o Objects)) {
	visit("objects", s.Objects)
	for i, ph := range s.Phases {
		for _, step := range ph.actions(i) {
			switch a := step.Action.(type) {
			case Apply:
				visit(step.path+".apply", a.Objects)
			case Churn:
				for k, o := range a.Between {
					visit(fmt.Sprintf("%s.churn.between[%d]", step.path, k), o)
				}
			}
		}
	}
}

// AllObjects returns the first objects and those that actions apply.
func (s Scenario) AllObjects() []Objects {
	var all []Objects
	s.eachObjects(func(_ string, o Objects) { all = append(all, o) })
	return all
}

// services are those that have an address to ask for.
func (s Scenario) services() map[string]bool {
	names := map[string]bool{}
	for _, o := range s.AllObjects() {
		for _, svc := range o.Services {
			names[svc.Name] = names[svc.Name] || !svc.Headless
		}
	}
	return names
}

func (o Objects) validate(pods, waypoints map[string]bool) error {
	if err := o.validateWaypoints(waypoints); err != nil {
		return err
	}
	for i, p := range o.Unready {
		if !pods[p] {
			return atf(fmt.Sprintf("unready[%d]", i), "unready pod %s is not in the topology", p)
		}
	}
	for i, svc := range o.Services {
		if err := svc.validate(pods); err != nil {
			return at(fmt.Sprintf("services[%d]", i), fmt.Errorf("service %s: %w", svc.Name, err))
		}
	}
	return nil
}

func (s Service) validate(pods map[string]bool) error {
	if err := s.validateSet(); err != nil {
		return err
	}
	switch s.Family {
	case IPv4, IPv6, Dual:
	default:
		return atf("family", "family %q is none of %s, %s, %s", s.Family, IPv4, IPv6, Dual)
	}
	for i, p := range s.Ports {
		if err := p.Protocol.validate(); err != nil {
			return at(fmt.Sprintf("ports[%d].protocol", i), fmt.Errorf("port %d: %w", p.Port, err))
		}
	}
	for i, e := range s.Endpoints {
		if !pods[e.Pod] {
			return atf(fmt.Sprintf("endpoints[%d].pod", i), "endpoint %s is not in the topology", e.Pod)
		}
	}
	return nil
}

// MaxConnections bounds one load: all its lines are kept for the verdict.
const MaxConnections = 1_000_000

func (l Load) validate(pods, addresses, services map[string]bool) error {
	if len(l.From) == 0 || l.Connections < len(l.From) {
		return atf("connections", "%d connections from %d pods", l.Connections, len(l.From))
	}
	if l.Connections > MaxConnections {
		return atf("connections", "%d connections, at most %d", l.Connections, MaxConnections)
	}
	for i, p := range l.From {
		if !pods[p] {
			return atf(fmt.Sprintf("from[%d]", i), "client pod %s is not in the topology", p)
		}
		if slices.Contains(l.From[:i], p) {
			return atf(fmt.Sprintf("from[%d]", i), "client pod %s is named twice", p)
		}
	}
	if l.To.Pod != "" && !addresses[l.To.Pod] {
		return atf("to.pod", "target pod %s is not in the topology", l.To.Pod)
	}
	if (l.To.Pod == "") == (l.To.Service == "") {
		return atf("to", "the target must be one service or one pod")
	}
	if l.To.Service != "" && !services[l.To.Service] {
		return atf("to.service", "target service %s is declared nowhere, or headless", l.To.Service)
	}
	switch l.To.Family {
	case IPv4, IPv6, Mapped:
	default:
		return atf("to.family", "target family %q is none of %s, %s, %s", l.To.Family, IPv4, IPv6, Mapped)
	}
	if err := l.To.Protocol.validate(); err != nil {
		return at("to.protocol", fmt.Errorf("target: %w", err))
	}
	if err := l.datagrams(); err != nil {
		return err
	}
	if err := l.http(); err != nil {
		return err
	}
	n := l.Connections * max(l.Requests, 1)
	if l.Then != nil {
		n /= 2
	}
	for i, w := range l.wants() {
		if err := w.validate(addresses, n); err != nil {
			return at([]string{"want", "then"}[i], err)
		}
	}
	return nil
}

// MaxDatagrams bounds what one UDP socket sends.
const MaxDatagrams = 1000

// datagrams reports what UDP has and TCP has not, and the other way round.
func (l Load) datagrams() error {
	if l.To.Protocol != UDP {
		if l.Datagrams != 0 || l.Unconnected {
			return atf("to", "datagrams and unconnected sockets are for targets with protocol %s", UDP)
		}
		return nil
	}
	if l.Datagrams < 0 || l.Datagrams > MaxDatagrams {
		return atf("datagrams", "%d datagrams of each socket: want 1 to %d", l.Datagrams, MaxDatagrams)
	}
	for _, w := range l.wants() {
		if w.Outcome == RefusedByPeer && l.Unconnected {
			return atf("want.outcome", "outcome %s: an unconnected UDP socket is not told", RefusedByPeer)
		}
	}
	return nil
}

func (p Protocol) validate() error {
	switch p {
	case "", TCP, UDP:
		return nil
	}
	return fmt.Errorf("protocol %q is none of %s, %s", p, TCP, UDP)
}

func (l Load) wants() []Want {
	if l.Then != nil {
		return []Want{l.Want, *l.Then}
	}
	return []Want{l.Want}
}

func (w Want) validate(addresses map[string]bool, n int) error {
	switch w.Outcome {
	case RefusedByMesh, RefusedByPeer:
		return nil
	case Connected:
	default:
		return atf("outcome", "outcome %q is none of %s, %s, %s", w.Outcome, Connected, RefusedByMesh, RefusedByPeer)
	}
	switch w.Via {
	case ViaNone, ViaSocket, ViaDNAT:
	case ViaWaypoint:
		if w.Waypoint == "" {
			return atf("via", "via %s: waypoint says which", w.Via)
		}
	case ViaProxy:
		return atf("via", "via %s is not judged yet: no rule says what to expect of it", w.Via)
	default:
		return atf("via", "via %q is none of %s, %s, %s, %s", w.Via, ViaNone, ViaSocket, ViaDNAT, ViaWaypoint)
	}
	sum := 0.0
	for _, pod := range sorted(w.Split) {
		share := w.Split[pod]
		if !addresses[pod] {
			return atf("split", "server pod %s is not in the topology", pod)
		}
		if !(share >= 0 && share <= 1) {
			return atf("split."+pod, "share of %s: %g is not between 0 and 1", pod, share)
		}
		sum += share
		if w.Unweighed {
			continue
		}
		if err := gate(pod, n, share); err != nil {
			return at("split."+pod, err)
		}
	}
	if sum < 0.999999 || sum > 1.000001 {
		return atf("split", "the shares sum to %g, not 1", sum)
	}
	return nil
}

// gate refuses a share gate that could not see an error.
func gate(pod string, n int, share float64) error {
	if share <= 0 || share >= 1 {
		return nil // exact: any connection elsewhere fails
	}
	if n < MinConnections {
		return fmt.Errorf("share of %s: %d connections, a share needs at least %d", pod, n, MinConnections)
	}
	if p := Power(n, share); p < MinPower {
		return fmt.Errorf("share of %s: %d connections see an error of %g with probability %.4f only, %g is needed",
			pod, n, Shift, p, MinPower)
	}
	return nil
}
