package intent

import (
	"net/netip"
	"slices"
)

// Exit is the reason for which the engine let a connection go where it went.
// The kernel counts connections under the same names.
type Exit string

// The exits of the decision table.
const (
	// PassUnmanaged: the caller's network namespace is not enrolled.
	PassUnmanaged Exit = "pass-unmanaged"
	// PassProtocol: neither TCP, MPTCP nor UDP.
	PassProtocol Exit = "pass-protocol"
	// PassNoVIP: the address belongs to no service and to no workload with a
	// waypoint; loopback, link-local and multicast are such addresses.
	PassNoVIP Exit = "pass-no-vip"
	// PassPassthrough: the service's mode is Passthrough.
	PassPassthrough Exit = "pass-passthrough"
	// Redirect: sent to an endpoint of the service.
	Redirect Exit = "redirect"
	// RedirectWaypoint: sent to a replica of a waypoint.
	RedirectWaypoint Exit = "redirect-waypoint"
	// RefuseNoWaypoint: a waypoint is declared, no live replica is reachable.
	RefuseNoWaypoint Exit = "refuse-no-waypoint"
	// RefuseNoEndpoint: no endpoint of the family may be chosen.
	RefuseNoEndpoint Exit = "refuse-no-endpoint"
	// RefuseNoPort: the address is a service's, the port is not declared.
	RefuseNoPort Exit = "refuse-no-port"
	// RefusePolicy: a policy names the workload, or one that may be chosen, and
	// nobody enforces it; see Workload.Unprotected.
	RefusePolicy Exit = "refuse-policy"
)

// Refused reports whether the application gets an error instead of a connection.
func (e Exit) Refused() bool {
	return e == RefuseNoWaypoint || e == RefuseNoEndpoint || e == RefuseNoPort || e == RefusePolicy
}

// Caller is the process whose connection is decided.
type Caller struct {
	// Managed is set when the caller's network namespace is enrolled.
	Managed bool
	Place   Place
}

// Decision is what must happen to one connection.
type Decision struct {
	Exit Exit
	// Service is the Key of the service that decided, if any.
	Service string
	// Targets are the possible destinations, set for Redirect and
	// RedirectWaypoint; the probability of each is its weight over the sum.
	Targets []Target
}

// Decide is the pure model of the decision table: where a connection of from
// to the address and port to must go. A v4-mapped address counts as IPv4.
func Decide(s Snapshot, from Caller, to netip.AddrPort, proto Protocol) Decision {
	if !from.Managed {
		return Decision{Exit: PassUnmanaged}
	}
	if proto != TCP && proto != UDP {
		return Decision{Exit: PassProtocol}
	}
	addr := to.Addr().Unmap().WithZone("")
	claims, _ := s.Claims()
	if c, ok := claims[Frontend{Addr: addr, Port: to.Port(), Protocol: proto}]; ok {
		if proto == TCP && c.Service.passes() {
			if d, own := s.decideOwn(addr, from.Place); own {
				return d
			}
		}
		return decideFrontend(c, addr, proto, from.Place)
	}
	if proto != TCP {
		return Decision{Exit: PassNoVIP}
	}
	if svc := s.serviceAt(addr); svc != nil {
		return Decision{Exit: RefuseNoPort, Service: svc.Key()}
	}
	if d, own := s.decideOwn(addr, from.Place); own {
		return d
	}
	return Decision{Exit: PassNoVIP}
}

// passes is true for a service that lets TCP connections go where they were going. A
// workload that is there is as if the service were not.
func (s *Service) passes() bool { return s.Waypoint == nil && s.Balance.Mode == Passthrough }

// decideOwn is for a TCP connection to a workload's own address, if any has it that
// must not be reached, or not like this.
func (s Snapshot) decideOwn(addr netip.Addr, from Place) (d Decision, own bool) {
	if s.unprotectedAt(addr, from) {
		return Decision{Exit: RefusePolicy}, true
	}
	if w := s.waypointAt(addr, from); w != nil {
		return decideWaypoint(w, "", addr, from), true
	}
	return d, false
}

func decideFrontend(c Claim, addr netip.Addr, proto Protocol, from Place) Decision {
	svc := c.Service
	if proto == TCP && svc.Waypoint != nil {
		if slices.ContainsFunc(svc.Endpoints, Endpoint.unprotected) {
			return Decision{Exit: RefusePolicy, Service: svc.Key()}
		}
		return decideWaypoint(svc.Waypoint, svc.Key(), addr, from)
	}
	if svc.Balance.Mode == Passthrough {
		return Decision{Exit: PassPassthrough, Service: svc.Key()}
	}
	targets := svc.Targets(c.Port, addr.Is6(), from)
	if len(targets) == 0 {
		return Decision{Exit: RefuseNoEndpoint, Service: svc.Key()}
	}
	if proto == TCP && slices.ContainsFunc(targets, Target.unprotected) {
		return Decision{Exit: RefusePolicy, Service: svc.Key()}
	}
	return Decision{Exit: Redirect, Service: svc.Key(), Targets: targets}
}

func decideWaypoint(w *Waypoint, service string, addr netip.Addr, from Place) Decision {
	targets := w.Replicas(addr.Is6(), from)
	if len(targets) == 0 {
		return Decision{Exit: RefuseNoWaypoint, Service: service}
	}
	if slices.ContainsFunc(targets, Target.unprotected) {
		return Decision{Exit: RefusePolicy, Service: service}
	}
	return Decision{Exit: RedirectWaypoint, Service: service, Targets: targets}
}

func (e Endpoint) unprotected() bool { return e.Workload.Unprotected }
func (t Target) unprotected() bool   { return t.Workload.Unprotected }

func (s Snapshot) serviceAt(addr netip.Addr) *Service {
	for _, svc := range ByPrecedence(s.Services) {
		for _, a := range svc.Addresses {
			if a == addr {
				return svc
			}
		}
	}
	return nil
}

// waypointAt is the waypoint of the workload that has the address on the caller's
// network. Of several that have one and a waypoint the first by UID counts.
func (s Snapshot) waypointAt(addr netip.Addr, from Place) *Waypoint {
	var first *Workload
	for _, w := range s.Workloads {
		if w.OwnWaypoint() != nil && w.has(addr, from) && (first == nil || w.UID < first.UID) {
			first = w
		}
	}
	if first == nil {
		return nil
	}
	return first.Waypoint
}

// unprotectedAt reports whether a workload that has the address as its own, and
// which connections must not reach, is among those of the Snapshot.
func (s Snapshot) unprotectedAt(addr netip.Addr, from Place) bool {
	return slices.ContainsFunc(s.Workloads, func(w *Workload) bool {
		return w.Unprotected && !w.HostNetwork && w.has(addr, from)
	})
}

// has is true when the address means the workload where the caller is: another network
// may have it, too.
func (w *Workload) has(addr netip.Addr, from Place) bool {
	return w.Network == from.Network && slices.Contains(w.Addresses, addr)
}
