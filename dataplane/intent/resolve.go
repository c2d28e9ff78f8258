package intent

import (
	"cmp"
	"net/netip"
	"slices"
)

// Frontend is what a client dials on a service: one address, port and protocol.
// Port is in host byte order.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
}

// String returns "address:port/protocol".
func (f Frontend) String() string {
	return netip.AddrPortFrom(f.Addr, f.Port).String() + "/" + f.Protocol.String()
}

// Target is one endpoint that a frontend's connections may go to.
type Target struct {
	Workload *Workload
	// Addr is the workload's address of the frontend's family, and the target
	// port in host byte order.
	Addr netip.AddrPort
	// Weight is never zero.
	Weight uint32
}

// Claim is a service's hold on one frontend.
type Claim struct {
	Service *Service
	Port    Port
}

// Conflict is a frontend that several services claim; the first of Services
// has it.
type Conflict struct {
	Frontend Frontend
	Services []string
}

// Claims returns who has each frontend, and the frontends that several
// services claim: the canonical service wins, then the first by namespace and
// name.
func (s Snapshot) Claims() (map[Frontend]Claim, []Conflict) {
	claims := map[Frontend]Claim{}
	losers := map[Frontend][]string{}
	for _, svc := range ByPrecedence(s.Services) {
		for _, addr := range svc.Addresses {
			for _, p := range svc.Ports {
				f := Frontend{Addr: addr, Port: p.Port, Protocol: p.Protocol}
				if c, taken := claims[f]; !taken {
					claims[f] = Claim{Service: svc, Port: p}
				} else if c.Service != svc {
					losers[f] = append(losers[f], svc.Key())
				}
			}
		}
	}
	return claims, conflicts(claims, losers)
}

func conflicts(claims map[Frontend]Claim, losers map[Frontend][]string) []Conflict {
	var all []Conflict
	for f, keys := range losers {
		winner := claims[f].Service.Key()
		all = append(all, Conflict{Frontend: f, Services: append([]string{winner}, keys...)})
	}
	slices.SortFunc(all, func(a, b Conflict) int {
		return cmp.Compare(a.Frontend.String(), b.Frontend.String())
	})
	return all
}

// ByPrecedence returns the services in the order of Precedence.
func ByPrecedence(services []*Service) []*Service {
	sorted := slices.Clone(services)
	slices.SortStableFunc(sorted, Precedence)
	return sorted
}

// Precedence is negative when a is given a frontend that both claim: canonical
// services come first, then the order is by namespace and name.
func Precedence(a, b *Service) int {
	if a.Canonical != b.Canonical {
		if a.Canonical {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Targets returns the endpoints of s that a caller at the given place may be
// sent to for one port and address family, in the order of s.Endpoints:
// those with an address of the family, on the caller's network, with a target
// port, healthy unless the service allows others, of a weight above zero, and
// within the locality policy. A workload that is known by a hostname is there with
// each of its addresses of the family; the addresses share its weight.
func (s *Service) Targets(p Port, v6 bool, from Place) []Target {
	return s.Balance.choose(s.Endpoints, p, v6, from)
}

// choose returns the endpoints that the policy leaves for one port and family.
func (b Balance) choose(all []Endpoint, p Port, v6 bool, from Place) []Target {
	var targets []Target
	best := 0
	for _, e := range all {
		t, ok := e.target(p, v6, from, b)
		if !ok {
			continue
		}
		rank := matched(b, from, e.Workload)
		switch {
		case b.Mode == Strict && rank < len(b.Prefer):
			continue
		case b.Mode == Failover && rank < best:
			continue
		case b.Mode == Failover && rank > best:
			best, targets = rank, nil
		}
		targets = append(targets, t)
	}
	return spread(targets, v6)
}

func (e Endpoint) target(p Port, v6 bool, from Place, b Balance) (Target, bool) {
	w := e.Workload
	if w.Network != from.Network || w.Weight == 0 || (w.Unhealthy && !b.AllowUnhealthy) {
		return Target{}, false
	}
	port := e.Ports[p.Port]
	if port == 0 {
		port = p.Target
	}
	addr, ok := w.address(v6)
	if port == 0 || !ok {
		return Target{}, false
	}
	return Target{Workload: w, Addr: netip.AddrPortFrom(addr, port), Weight: w.Weight}, true
}

// address returns the workload's first address of a family.
func (w *Workload) address(v6 bool) (netip.Addr, bool) {
	for _, a := range w.Addresses {
		if a.Is6() == v6 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// matched counts the leading scopes of b.Prefer in which w is where the caller is.
func matched(b Balance, from Place, w *Workload) int {
	for i, s := range b.Prefer {
		if !s.same(from, w) {
			return i
		}
	}
	return len(b.Prefer)
}

func (s Scope) same(from Place, w *Workload) bool {
	switch s {
	case ScopeNetwork:
		return from.Network == w.Network
	case ScopeRegion:
		return from.Locality.Region == w.Locality.Region
	case ScopeZone:
		return from.Locality.Zone == w.Locality.Zone
	case ScopeSubzone:
		return from.Locality.Subzone == w.Locality.Subzone
	case ScopeNode:
		return from.Node == w.Node
	case ScopeCluster:
		return from.Cluster == w.Cluster
	}
	return false
}

// OwnWaypoint is what handles connections to the workload's own addresses, if
// anything: a hostNetwork pod's are the node's, and never taken.
func (w *Workload) OwnWaypoint() *Waypoint {
	if w.HostNetwork {
		return nil
	}
	return w.Waypoint
}

// Replicas returns the live replicas of a waypoint of one family that a caller
// at the given place is sent to, each with the hand-off port.
func (w *Waypoint) Replicas(v6 bool, from Place) []Target {
	b := w.Balance
	b.AllowUnhealthy = false
	all := slices.Clone(w.Endpoints)
	for i := range all {
		all[i].Ports = nil // of the waypoint's own service
	}
	return b.choose(all, Port{Target: w.Port}, v6, from)
}
