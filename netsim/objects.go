package netsim

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// namespace is the one of every service and pod.
const namespace = "default"

// desired is one declared state, as scenarios and as engines know it. It is
// immutable once it has been made.
type desired struct {
	objects  scenario.Objects
	snapshot intent.Snapshot
	services map[string]*intent.Service
	shares   map[share]*intent.Workload
	// waypoints are those that services name.
	waypoints map[string]*intent.Waypoint
}

// share is a pod as an endpoint. Scenarios weigh an endpoint per service, the
// mesh weighs a workload: a pod is one workload per weight that it has, and is known by
// its addresses or by its name alone.
type share struct {
	pod     string
	weight  uint32
	byName  bool
	unready bool
}

func newDesired() *desired {
	return &desired{
		services: map[string]*intent.Service{}, shares: map[share]*intent.Workload{}, waypoints: map[string]*intent.Waypoint{},
	}
}

// derive makes the desired state of o; what did not change since old is shared
// by pointer.
func (c *Cluster) derive(old *desired, o scenario.Objects) (*desired, error) {
	d := newDesired()
	d.objects = o
	for _, n := range c.nodes {
		for _, p := range n.pods {
			d.workload(old, p, share{pod: p.spec.Name, weight: 1})
		}
	}
	if err := c.declareWaypoints(old, d, o); err != nil {
		return nil, err
	}
	for _, s := range o.Services {
		if !label.MatchString(s.Name) {
			return nil, fmt.Errorf("service %q: the name is no lower-case DNS label", s.Name)
		}
		if d.services[s.Name] != nil {
			return nil, fmt.Errorf("service %s: declared twice", s.Name)
		}
		svc, err := c.service(old, d, s)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Name, err)
		}
		if before := old.services[s.Name]; reflect.DeepEqual(before, svc) {
			svc = before
		}
		d.services[s.Name] = svc
		d.snapshot.Services = append(d.snapshot.Services, svc)
	}
	d.routes(old, o)
	if err := d.snapshot.Validate(); err != nil {
		return nil, err
	}
	return d, nil
}

func (c *Cluster) service(old, d *desired, s scenario.Service) (*intent.Service, error) {
	svc := &intent.Service{
		Name: s.Name, Namespace: namespace, Hostname: s.Name + "." + namespace + ".svc.cluster.local",
		Waypoint: d.waypoints[s.Waypoint],
		Balance:  intent.Balance{Mode: s.Balance.Mode, Prefer: s.Balance.Prefer, AllowUnhealthy: s.PublishNotReady},
	}
	if !s.Headless {
		addrs, err := c.vips.of(s.Name, s.Family)
		if err != nil {
			return nil, err
		}
		svc.Addresses = addrs.list()
	}
	for _, p := range s.Ports {
		port := intent.Port{Port: p.Port, Target: p.Target, Name: p.Name, Protocol: intent.TCP}
		if p.Protocol == scenario.UDP {
			port.Protocol = intent.UDP
		}
		svc.Ports = append(svc.Ports, port)
	}
	for _, e := range s.Endpoints {
		p, err := c.pod(e.Pod)
		if err != nil {
			return nil, err
		}
		svc.Endpoints = append(svc.Endpoints, intent.Endpoint{
			Workload: d.workload(old, p, share{pod: e.Pod, weight: e.Weight, byName: e.ByName}), Ports: targetsOf(s, e, p.spec),
		})
	}
	return svc, nil
}

// targetsOf are the pod's own target ports: those by name, and those that the endpoint
// says.
func targetsOf(s scenario.Service, e scenario.Endpoint, p scenario.Pod) map[uint16]uint16 {
	var own map[uint16]uint16
	put := func(port, target uint16) {
		if own == nil {
			own = map[uint16]uint16{}
		}
		own[port] = target
	}
	for _, port := range s.Ports {
		if target := p.Ports[port.TargetName]; target != 0 {
			put(port.Port, target)
		}
	}
	for port, target := range e.Ports {
		put(port, target)
	}
	return own
}

// workload returns the pod with one weight, the value of old where there is one.
func (d *desired) workload(old *desired, p *pod, s share) *intent.Workload {
	s.unready = slices.Contains(d.objects.Unready, s.pod)
	if w := d.shares[s]; w != nil {
		return w
	}
	w := old.shares[s]
	if w == nil {
		w = &intent.Workload{
			UID: "netsim//Pod/" + namespace + "/" + s.pod, Name: s.pod, Namespace: namespace,
			Addresses: p.families(), Weight: s.weight, Unhealthy: s.unready, Gateway: p.spec.Waypoint,
			Node: p.node.place.Node, Network: p.node.place.Network, Cluster: p.node.place.Cluster, Locality: p.node.place.Locality,
		}
		if s.weight != 1 {
			w.UID += fmt.Sprintf("/weight-%d", s.weight)
		}
		if s.byName {
			w.UID += "/by-name"
			w.Hostname = s.pod + "." + namespace + ".pod.cluster.local"
		}
	}
	d.shares[s] = w
	d.snapshot.Workloads = append(d.snapshot.Workloads, w)
	return w
}

// state tells other processes of the services.
func (d *desired) state() []ServiceState {
	var all []ServiceState
	for _, s := range d.objects.Services {
		all = append(all, ServiceState{
			Name: s.Name, Addresses: d.services[s.Name].Addresses, Ports: s.Ports, Endpoints: s.Endpoints,
		})
	}
	return all
}

// virtual are all addresses of services.
func (d *desired) virtual() []netip.Addr {
	var all []netip.Addr
	for _, s := range d.snapshot.Services {
		all = append(all, s.Addresses...)
	}
	return all
}

// endpoints are the pods behind the services at an address; all services when
// the address is invalid.
func (d *desired) endpoints(at netip.Addr) []string {
	var pods []string
	for _, s := range d.objects.Services {
		if at.IsValid() && !slices.Contains(d.services[s.Name].Addresses, at) {
			continue
		}
		for _, e := range s.Endpoints {
			pods = append(pods, e.Pod)
		}
		for _, r := range s.Routes {
			for _, b := range r.Backends {
				pods = append(pods, d.podsOf(b.Service)...)
			}
		}
	}
	slices.Sort(pods)
	return slices.Compact(pods)
}

func (a Addresses) list() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{a.IPv4, a.IPv6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// of returns the address of a family; Mapped is IPv4 as an IPv6 socket dials it.
func (a Addresses) of(f scenario.Family) netip.Addr {
	switch {
	case f == scenario.Mapped && a.IPv4.IsValid():
		return netip.AddrFrom16(a.IPv4.As16())
	case f == scenario.Mapped, f == scenario.IPv4:
		return a.IPv4
	case f == scenario.IPv6, !a.IPv4.IsValid():
		return a.IPv6
	}
	return a.IPv4
}
