package scenario

import (
	"fmt"
	"slices"
)

// Validate reports what makes a scenario useless or self-contradictory, naming
// it: an unknown pod or service, shares that do not sum to 1, a gate of too
// little power.
func (s Scenario) Validate() error {
	pods := map[string]bool{}
	for _, n := range s.Topology.Nodes {
		for _, p := range n.Pods {
			if pods[p.Name] {
				return fmt.Errorf("scenario %s: pod %s is declared twice", s.Name, p.Name)
			}
			pods[p.Name] = true
			if err := p.validateAddresses(); err != nil {
				return fmt.Errorf("scenario %s: %w", s.Name, err)
			}
			if p.Waypoint && (p.Managed || len(p.Serve)+len(p.ServeFirst)+len(p.ServeUDP) > 0) {
				return fmt.Errorf("scenario %s: pod %s: a waypoint is never managed and serves nothing of its own", s.Name, p.Name)
			}
		}
	}
	if len(s.Phases) == 0 {
		return fmt.Errorf("scenario %s: no phase", s.Name)
	}
	switch s.Topology.Mesh {
	case Duomesh, DNAT, NoMesh:
	default:
		return fmt.Errorf("scenario %s: mesh %q is unknown", s.Name, s.Topology.Mesh)
	}
	for _, o := range s.allObjects() {
		if err := o.validate(pods, s.Topology.waypoints()); err != nil {
			return fmt.Errorf("scenario %s: %w", s.Name, err)
		}
	}
	for i, ph := range s.Phases {
		for _, a := range append(ph.Before[:len(ph.Before):len(ph.Before)], ph.During...) {
			if err := s.Topology.validate(a); err != nil {
				return fmt.Errorf("scenario %s: phase %d: %s: %w", s.Name, i+1, a, err)
			}
		}
		for j, l := range ph.Loads {
			if l.Then != nil && len(ph.During) == 0 {
				return fmt.Errorf("scenario %s: phase %d: load %d: then without anything during the phase", s.Name, i+1, j+1)
			}
			if err := l.validate(pods, s.Topology.addresses(), s.services()); err != nil {
				return fmt.Errorf("scenario %s: phase %d: load %d: %w", s.Name, i+1, j+1, err)
			}
		}
	}
	return nil
}

// allObjects returns the first objects and those that actions apply.
func (s Scenario) allObjects() []Objects {
	all := []Objects{s.Objects}
	for _, ph := range s.Phases {
		for _, a := range append(ph.Before[:len(ph.Before):len(ph.Before)], ph.During...) {
			switch a := a.(type) {
			case Apply:
				all = append(all, a.Objects)
			case Churn:
				all = append(all, a.Between...)
			}
		}
	}
	return all
}

// services are those that have an address to ask for.
func (s Scenario) services() map[string]bool {
	names := map[string]bool{}
	for _, o := range s.allObjects() {
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
	for _, p := range o.Unready {
		if !pods[p] {
			return fmt.Errorf("unready pod %s is not in the topology", p)
		}
	}
	for _, svc := range o.Services {
		if err := svc.validateSet(); err != nil {
			return fmt.Errorf("service %s: %w", svc.Name, err)
		}
		switch svc.Family {
		case IPv4, IPv6, Dual:
		default:
			return fmt.Errorf("service %s: family %q is none of %s, %s, %s", svc.Name, svc.Family, IPv4, IPv6, Dual)
		}
		for _, p := range svc.Ports {
			if err := p.Protocol.validate(); err != nil {
				return fmt.Errorf("service %s: port %d: %w", svc.Name, p.Port, err)
			}
		}
		for _, e := range svc.Endpoints {
			if !pods[e.Pod] {
				return fmt.Errorf("service %s: endpoint %s is not in the topology", svc.Name, e.Pod)
			}
		}
	}
	return nil
}

// MaxConnections bounds one load: all its lines are kept for the verdict.
const MaxConnections = 1_000_000

func (l Load) validate(pods, addresses, services map[string]bool) error {
	if len(l.From) == 0 || l.Connections < len(l.From) {
		return fmt.Errorf("%d connections from %d pods", l.Connections, len(l.From))
	}
	if l.Connections > MaxConnections {
		return fmt.Errorf("%d connections, at most %d", l.Connections, MaxConnections)
	}
	for i, p := range l.From {
		if !pods[p] {
			return fmt.Errorf("client pod %s is not in the topology", p)
		}
		if slices.Contains(l.From[:i], p) {
			return fmt.Errorf("client pod %s is named twice", p)
		}
	}
	if l.To.Pod != "" && !addresses[l.To.Pod] {
		return fmt.Errorf("target pod %s is not in the topology", l.To.Pod)
	}
	if (l.To.Pod == "") == (l.To.Service == "") {
		return fmt.Errorf("the target must be one service or one pod")
	}
	if l.To.Service != "" && !services[l.To.Service] {
		return fmt.Errorf("target service %s is declared nowhere, or headless", l.To.Service)
	}
	switch l.To.Family {
	case IPv4, IPv6, Mapped:
	default:
		return fmt.Errorf("target family %q is none of %s, %s, %s", l.To.Family, IPv4, IPv6, Mapped)
	}
	if err := l.To.Protocol.validate(); err != nil {
		return fmt.Errorf("target: %w", err)
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
	for _, w := range l.wants() {
		if err := w.validate(addresses, n); err != nil {
			return err
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
			return fmt.Errorf("datagrams and unconnected sockets are for targets with protocol %s", UDP)
		}
		return nil
	}
	if l.Datagrams < 0 || l.Datagrams > MaxDatagrams {
		return fmt.Errorf("%d datagrams of each socket: want 1 to %d", l.Datagrams, MaxDatagrams)
	}
	for _, w := range l.wants() {
		if w.Outcome == RefusedByPeer && l.Unconnected {
			return fmt.Errorf("outcome %s: an unconnected UDP socket is not told", RefusedByPeer)
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
		return fmt.Errorf("outcome %q is unknown", w.Outcome)
	}
	switch w.Via {
	case ViaNone, ViaSocket, ViaDNAT:
	case ViaWaypoint:
		if w.Waypoint == "" {
			return fmt.Errorf("via %s: waypoint says which", w.Via)
		}
	case ViaProxy:
		return fmt.Errorf("via %s is not judged yet: no rule says what to expect of it", w.Via)
	default:
		return fmt.Errorf("via %q is unknown", w.Via)
	}
	sum := 0.0
	for _, pod := range sorted(w.Split) {
		share := w.Split[pod]
		if !addresses[pod] {
			return fmt.Errorf("server pod %s is not in the topology", pod)
		}
		if !(share >= 0 && share <= 1) {
			return fmt.Errorf("share of %s: %g is not between 0 and 1", pod, share)
		}
		sum += share
		if w.Unweighed {
			continue
		}
		if err := gate(pod, n, share); err != nil {
			return err
		}
	}
	if sum < 0.999999 || sum > 1.000001 {
		return fmt.Errorf("the shares sum to %g, not 1", sum)
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
