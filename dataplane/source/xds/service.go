package xds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// service is one service that istiod has sent, or that workloads say they are
// behind.
type service struct {
	key      string
	base     *intent.Service // as sent, without endpoints; nil: not sent yet
	waypoint reference
	notices  []string
	members  []*workload // in the order of their UIDs

	at place
}

// same holds what was sent against what was sent before.
func (s *service) same(o *service) bool {
	return sameValue(s.base, o.base) && s.waypoint == o.waypoint && slices.Equal(s.notices, o.notices)
}

func (s *service) join(w *workload) {
	if i, is := slices.BinarySearchFunc(s.members, w, byUID); !is {
		s.members = slices.Insert(s.members, i, w)
	}
}

func (s *service) leave(w *workload) {
	if i, is := slices.BinarySearchFunc(s.members, w, byUID); is {
		s.members = slices.Delete(s.members, i, i+1)
	}
}

func (s *service) say(format string, args ...any) {
	s.notices = append(s.notices, shared(fmt.Sprintf(format, args...)))
}

// decodeService takes a service as it is sent under a name.
func (m *mesh) decodeService(name string, s *workloadapi.Service) (_ *service, err error) {
	if s.Hostname == "" {
		return nil, fmt.Errorf("service %s/%s without a hostname", s.Namespace, s.Name)
	}
	if key := s.Namespace + "/" + s.Hostname; key != name {
		return nil, fmt.Errorf("the service in it has another name: %s", key)
	}
	out := &service{key: shared(name), base: &intent.Service{
		Name: m.nameOf(s), Namespace: shared(s.Namespace), Hostname: s.Hostname, Canonical: s.Canonical,
	}}
	if out.base.Balance, err = balance(s.LoadBalancing); err != nil {
		return nil, err
	}
	if err := out.addresses(s, m.config.Network); err != nil {
		return nil, err
	}
	if err := out.ports(s); err != nil {
		return nil, err
	}
	if out.waypoint, err = referenceOf(s.Waypoint); err != nil {
		return nil, err
	}
	if len(s.WeightedWaypoints) > 0 {
		out.say("weighted waypoints are not used, all connections go to the primary one")
	}
	if s.Visibility == workloadapi.Service_NAMESPACE {
		out.say("it is to be seen by its own namespace only: connections of others are not refused")
	}
	return out, out.base.Validate()
}

// nameOf is the service's own name where its hostname is Kubernetes' form of it;
// of a ServiceEntry, which may have several hostnames, the hostname. One without a
// dot gets the dot of the root: no two hostnames of a namespace come to one name.
func (m *mesh) nameOf(s *workloadapi.Service) string {
	if s.Hostname == s.Name+"."+s.Namespace+".svc."+m.config.domain() {
		return s.Name
	}
	if !strings.Contains(s.Hostname, ".") {
		return s.Hostname + "."
	}
	return s.Hostname
}

// addresses are those that clients on this network use.
func (s *service) addresses(sent *workloadapi.Service, network string) error {
	for _, n := range sent.Addresses {
		a, ok := netip.AddrFromSlice(n.Address)
		if !ok {
			return fmt.Errorf("an address of %d bytes", len(n.Address))
		}
		a = a.Unmap()
		if n.Length != nil && int(*n.Length) != a.BitLen() {
			s.say("address %s/%d: ranges are not redirected", a, *n.Length)
			continue
		}
		if n.Network != "" && n.Network != network {
			continue
		}
		s.base.Addresses = append(s.base.Addresses, a)
	}
	return nil
}

// ports publishes each port for both protocols: the API names none, and what a
// name server listens on must not be refused for UDP.
func (s *service) ports(sent *workloadapi.Service) error {
	targets := map[uint32]uint32{}
	for _, p := range sent.Ports {
		if err := checkPort(p); err != nil {
			return err
		}
		if target, twice := targets[p.ServicePort]; twice {
			if target != p.TargetPort {
				s.say("port %d leads to %d, and not to %d as well", p.ServicePort, target, p.TargetPort)
			}
			continue
		}
		targets[p.ServicePort] = p.TargetPort
		for _, protocol := range []intent.Protocol{intent.TCP, intent.UDP} {
			s.base.Ports = append(s.base.Ports, intent.Port{
				Port: uint16(p.ServicePort), Target: uint16(p.TargetPort), Protocol: protocol,
			})
		}
	}
	return nil
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
