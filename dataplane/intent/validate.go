package intent

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// Validate reports everything in the Snapshot that makes no sense, joined in
// one error, each problem naming the object and the field. Nil means that an
// engine may be given it.
func (s Snapshot) Validate() error {
	v := validator{uids: map[string]bool{}, services: map[string]bool{}}
	for _, w := range s.Workloads {
		v.workload(w)
	}
	for _, svc := range s.Services {
		v.service(svc)
	}
	for _, r := range s.Routes {
		v.route(r)
	}
	return errors.Join(v.problems...)
}

// Validate reports what makes no sense in one workload alone.
func (w *Workload) Validate() error {
	var v validator
	v.contents("workload "+w.UID, w)
	return errors.Join(v.problems...)
}

// Validate reports what makes no sense in one service alone.
func (s *Service) Validate() error {
	v := validator{services: map[string]bool{}}
	v.service(s)
	return errors.Join(v.problems...)
}

type validator struct {
	uids     map[string]bool
	services map[string]bool
	problems []error
}

func (v *validator) add(format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf(format, args...))
}

func (v *validator) workload(w *Workload) {
	name := "workload " + w.UID
	if w.UID == "" {
		v.add("workload %s/%s: uid is missing", w.Namespace, w.Name)
	}
	if v.uids[w.UID] {
		v.add("%s: declared twice", name)
	}
	v.uids[w.UID] = true
	v.contents(name, w)
}

// contents is all but the identity of a workload.
func (v *validator) contents(name string, w *Workload) {
	for _, a := range w.Addresses {
		if reason := Unusable(a); reason != "" {
			v.add("%s: address %s: %s", name, a, reason)
		}
	}
	if w.Waypoint != nil {
		v.waypoint(name, w.Waypoint)
	}
}

func (v *validator) service(s *Service) {
	name := "service " + s.Key()
	if s.Name == "" {
		v.add("%s: name is missing", name)
	}
	if v.services[s.Key()] {
		v.add("%s: declared twice", name)
	}
	v.services[s.Key()] = true
	for _, a := range s.Addresses {
		if reason := Unusable(a); reason != "" {
			v.add("%s: address %s: %s", name, a, reason)
		}
	}
	v.ports(name, s.Ports)
	v.endpoints(name, s.Endpoints)
	v.balance(name, s.Balance)
	if s.Waypoint != nil {
		v.waypoint(name, s.Waypoint)
	}
}

func (v *validator) ports(name string, ports []Port) {
	type key struct {
		port  uint16
		proto Protocol
	}
	seen := map[key]bool{}
	for _, p := range ports {
		if p.Port == 0 {
			v.add("%s: port 0 cannot be declared", name)
		}
		if p.Protocol != TCP && p.Protocol != UDP {
			v.add("%s: port %d: %s is neither TCP nor UDP", name, p.Port, p.Protocol)
		}
		k := key{p.Port, p.Protocol}
		if seen[k] {
			v.add("%s: port %d/%s: declared twice", name, p.Port, p.Protocol)
		}
		seen[k] = true
	}
}

func (v *validator) endpoints(name string, eps []Endpoint) {
	seen := map[string]bool{}
	for _, e := range eps {
		if e.Workload == nil {
			v.add("%s: an endpoint names no workload", name)
			continue
		}
		if seen[e.Workload.UID] {
			v.add("%s: endpoint %s: declared twice", name, e.Workload.UID)
		}
		seen[e.Workload.UID] = true
		for port, target := range e.Ports {
			if port == 0 || target == 0 {
				v.add("%s: endpoint %s: port 0 in its own ports", name, e.Workload.UID)
			}
		}
	}
}

func (v *validator) balance(name string, b Balance) {
	switch b.Mode {
	case Any, Strict, Failover, Passthrough:
	default:
		v.add("%s: balance mode %q is unknown", name, b.Mode)
	}
	for _, s := range b.Prefer {
		switch s {
		case ScopeNetwork, ScopeRegion, ScopeZone, ScopeSubzone, ScopeNode, ScopeCluster:
		default:
			v.add("%s: balance scope %q is unknown", name, s)
		}
	}
}

func (v *validator) waypoint(owner string, w *Waypoint) {
	name := owner + ": waypoint " + w.Name
	if w.Port == 0 {
		v.add("%s: port is missing", name)
	}
	switch w.Codec {
	case OriginalDst, ProxyV2, KmeshTLV:
	default:
		v.add("%s: codec %q is unknown", name, w.Codec)
	}
	v.endpoints(name, w.Endpoints)
	v.balance(name, w.Balance)
}

func (v *validator) route(r *Route) {
	if !v.services[r.Service] {
		v.add("route of service %s: no such service", r.Service)
	}
	if len(r.Backends) == 0 {
		v.add("route of service %s: no backend", r.Service)
	}
	for _, b := range r.Backends {
		if !v.services[b.Service] {
			v.add("route of service %s: backend %s: no such service", r.Service, b.Service)
		}
	}
}

// Unusable says why an address can be neither a service's nor a workload's;
// the empty text means that it can be.
func Unusable(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "not an address"
	case a.Zone() != "":
		return "has a scope"
	case a.Is4In6():
		return "write a v4-mapped address as IPv4"
	case a.IsUnspecified():
		return "unspecified"
	case a.IsLoopback():
		return "loopback"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case a.IsMulticast():
		return "multicast"
	}
	return ""
}
