package xds

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// serviceKey is the name of a service's resource, and what workloads call it.
func serviceKey(s *workloadapi.Service) string { return s.Namespace + "/" + s.Hostname }

// service makes the intent of one service without its endpoints.
func service(s *workloadapi.Service, network string) (_ *intent.Service, notices []string, err error) {
	if s.Hostname == "" {
		return nil, nil, fmt.Errorf("service %s/%s without a hostname", s.Namespace, s.Name)
	}
	out := &intent.Service{
		Name: nameOf(s), Namespace: s.Namespace, Hostname: s.Hostname, Canonical: s.Canonical,
	}
	if out.Balance, err = balance(s.LoadBalancing); err != nil {
		return nil, nil, err
	}
	if out.Addresses, notices, err = addresses(s, network); err != nil {
		return nil, nil, err
	}
	if out.Ports, err = ports(s); err != nil {
		return nil, nil, err
	}
	if s.Waypoint != nil {
		notices = append(notices, fmt.Sprintf("waypoint %s: connections to this service do not pass it", gateway(s.Waypoint)))
	}
	if len(s.WeightedWaypoints) > 0 {
		notices = append(notices, "weighted waypoints are not used")
	}
	return out, notices, nil
}

// nameOf is the service's own name where its hostname is Kubernetes' form of it;
// of a ServiceEntry, which may have several hostnames, the hostname.
func nameOf(s *workloadapi.Service) string {
	if strings.HasPrefix(s.Hostname, s.Name+"."+s.Namespace+".svc.") {
		return s.Name
	}
	return s.Hostname
}

// addresses are those that clients on this network use.
func addresses(s *workloadapi.Service, network string) (all []netip.Addr, notices []string, err error) {
	for _, n := range s.Addresses {
		a, ok := netip.AddrFromSlice(n.Address)
		if !ok {
			return nil, nil, fmt.Errorf("an address of %d bytes", len(n.Address))
		}
		a = a.Unmap()
		if n.Length != nil && int(*n.Length) != a.BitLen() {
			notices = append(notices, fmt.Sprintf("address %s/%d: ranges are not redirected", a, *n.Length))
			continue
		}
		if n.Network != "" && n.Network != network {
			continue
		}
		all = append(all, a)
	}
	return all, notices, nil
}

// ports publishes each port for both protocols: the API names none, and what a
// name server listens on must not be refused for UDP.
func ports(s *workloadapi.Service) ([]intent.Port, error) {
	var all []intent.Port
	for _, p := range s.Ports {
		if p.ServicePort == 0 || p.ServicePort > 65535 || p.TargetPort > 65535 {
			return nil, fmt.Errorf("port %d to %d is none", p.ServicePort, p.TargetPort)
		}
		for _, protocol := range []intent.Protocol{intent.TCP, intent.UDP} {
			all = append(all, intent.Port{
				Port: uint16(p.ServicePort), Target: uint16(p.TargetPort), Protocol: protocol,
			})
		}
	}
	return all, nil
}

var modes = map[workloadapi.LoadBalancing_Mode]intent.Mode{
	workloadapi.LoadBalancing_UNSPECIFIED_MODE: intent.Any,
	workloadapi.LoadBalancing_STRICT:           intent.Strict,
	workloadapi.LoadBalancing_FAILOVER:         intent.Failover,
	workloadapi.LoadBalancing_PASSTHROUGH:      intent.Passthrough,
}

var scopes = map[workloadapi.LoadBalancing_Scope]intent.Scope{
	workloadapi.LoadBalancing_REGION:  intent.ScopeRegion,
	workloadapi.LoadBalancing_ZONE:    intent.ScopeZone,
	workloadapi.LoadBalancing_SUBZONE: intent.ScopeSubzone,
	workloadapi.LoadBalancing_NODE:    intent.ScopeNode,
	workloadapi.LoadBalancing_CLUSTER: intent.ScopeCluster,
	workloadapi.LoadBalancing_NETWORK: intent.ScopeNetwork,
}

func balance(l *workloadapi.LoadBalancing) (b intent.Balance, err error) {
	if l == nil {
		return b, nil
	}
	var known bool
	if b.Mode, known = modes[l.Mode]; !known {
		return b, fmt.Errorf("load balancing mode %d is not known", l.Mode)
	}
	for _, s := range l.RoutingPreference {
		scope, known := scopes[s]
		if !known {
			return b, fmt.Errorf("load balancing scope %d is not known", s)
		}
		b.Prefer = append(b.Prefer, scope)
	}
	switch l.HealthPolicy {
	case workloadapi.LoadBalancing_ONLY_HEALTHY:
	case workloadapi.LoadBalancing_ALLOW_ALL:
		b.AllowUnhealthy = true
	default:
		return b, fmt.Errorf("health policy %d is not known", l.HealthPolicy)
	}
	return b, nil
}
