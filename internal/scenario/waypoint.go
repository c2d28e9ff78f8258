package scenario

import (
	"fmt"
	"slices"
)

// WaypointPods are the replicas of a waypoint: those declared, or the pod of that name.
// There are none where there is no such waypoint.
func (o Objects) WaypointPods(name string, pods func(name string) bool) ([]string, bool) {
	for _, w := range o.Waypoints {
		if w.Name == name {
			return w.Pods, true
		}
	}
	if pods(name) {
		return []string{name}, true
	}
	return nil, false
}

// HandOff is how connections are handed to a waypoint, and the port.
func (o Objects) HandOff(name string) (codec string, port uint16) {
	for _, w := range o.Waypoints {
		if w.Name == name && w.Codec == ProxyV2 {
			return ProxyV2, ProxyPort
		}
	}
	return OriginalDst, HandOffPort
}

// HandOffPorts are those of a waypoint at any time of the scenario.
func (s Scenario) HandOffPorts(name string) []uint16 {
	var all []uint16
	for _, o := range s.AllObjects() {
		_, port := o.HandOff(name)
		all = append(all, port)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// WaypointNames are the waypoints of o, declared or named by a service, in order.
func (o Objects) WaypointNames() []string {
	var all []string
	for _, w := range o.Waypoints {
		all = append(all, w.Name)
	}
	for _, s := range o.Services {
		if s.Waypoint != "" {
			all = append(all, s.Waypoint)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// WaypointPods are all pods that are replicas of a waypoint at any time of the scenario.
func (s Scenario) WaypointPods(name string) []string {
	is := s.Topology.waypoints()
	var all []string
	for _, o := range s.AllObjects() {
		pods, _ := o.WaypointPods(name, func(pod string) bool { return is[pod] })
		all = append(all, pods...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Waypoints are the names of all pods that are waypoints, in the order of the topology.
func (t Topology) Waypoints() []string {
	var all []string
	for _, n := range t.Nodes {
		for _, p := range n.Pods {
			if p.Waypoint {
				all = append(all, p.Name)
			}
		}
	}
	return all
}

// CheckWaypoints reports what makes no sense of the waypoints and routes of o in a
// topology.
func (o Objects) CheckWaypoints(t Topology) error { return o.validateWaypoints(t.waypoints()) }

// validateWaypoints reports what makes no sense of waypoints and routes.
func (o Objects) validateWaypoints(pods map[string]bool) error {
	is := func(name string) bool { return pods[name] }
	seen := map[string]bool{}
	for i, w := range o.Waypoints {
		path := fmt.Sprintf("waypoints[%d]", i)
		if w.Name == "" || seen[w.Name] {
			return atf(path+".name", "waypoint %q: no name, or declared twice", w.Name)
		}
		seen[w.Name] = true
		if w.Codec != "" && w.Codec != OriginalDst && w.Codec != ProxyV2 {
			return atf(path+".codec", "waypoint %s: codec %s: want %s or %s", w.Name, w.Codec, OriginalDst, ProxyV2)
		}
		for _, p := range w.Pods {
			if !is(p) {
				return atf(path+".pods", "waypoint %s: pod %s is no waypoint of the topology", w.Name, p)
			}
		}
	}
	for i, svc := range o.Services {
		path := fmt.Sprintf("services[%d]", i)
		if svc.Waypoint == "" {
			if len(svc.Routes) > 0 {
				return atf(path+".routes", "service %s: routes without a waypoint: nobody carries them out", svc.Name)
			}
			continue
		}
		if _, there := o.WaypointPods(svc.Waypoint, is); !there {
			return atf(path+".waypoint", "service %s: waypoint %s is declared nowhere", svc.Name, svc.Waypoint)
		}
		if err := o.validateRoutes(svc); err != nil {
			return at(path, fmt.Errorf("service %s: %w", svc.Name, err))
		}
	}
	return nil
}

func (o Objects) validateRoutes(svc Service) error {
	for i, r := range svc.Routes {
		path := fmt.Sprintf("routes[%d]", i)
		if (r.Header == "") != (r.Exact == "") {
			return atf(path, "route %d: header and exact go together", i+1)
		}
		if len(r.Backends) == 0 {
			return atf(path, "route %d: no backend", i+1)
		}
		for k, b := range r.Backends {
			service := slices.IndexFunc(o.Services, func(s Service) bool { return s.Name == b.Service })
			if service < 0 {
				return atf(fmt.Sprintf("%s.backends[%d].service", path, k), "route %d: backend %s: no such service", i+1, b.Service)
			}
			if !slices.ContainsFunc(o.Services[service].Ports, func(p Port) bool { return p.Port == b.Port && p.Protocol != UDP }) {
				return atf(fmt.Sprintf("%s.backends[%d].port", path, k), "route %d: backend %s: no port %d", i+1, b.Service, b.Port)
			}
		}
	}
	return nil
}

// tellingConnections is how many connections say something of a replica that takes none.
const tellingConnections = 100

// validateReplicas reports what makes no sense of the replicas that loads are to reach.
func (s Scenario) validateReplicas(l Load) error {
	for i, w := range l.wants() {
		path := []string{"want", "then"}[i] + ".replicas"
		switch {
		case len(w.Replicas) == 0:
			continue
		case w.Outcome != Connected || w.Via != ViaWaypoint || l.To.Protocol == UDP:
			return atf(path, "replicas are those of a waypoint that TCP connections pass")
		case l.Then != nil:
			return atf(path, "replicas: a change concerns the load, and who took what before it is not told apart")
		case l.Connections < tellingConnections:
			return atf(path, "replicas: %d connections, that each takes some needs at least %d", l.Connections, tellingConnections)
		}
		pods := s.WaypointPods(w.Waypoint)
		for k, p := range w.Replicas {
			if !slices.Contains(pods, p) {
				return atf(fmt.Sprintf("%s[%d]", path, k), "replica %s is no pod of waypoint %s", p, w.Waypoint)
			}
		}
	}
	return nil
}

// MaxRequests bounds the requests of one load: all are kept for the verdict.
const MaxRequests = 1_000_000

// http reports what HTTP has and others have not, and the other way round.
func (l Load) http() error {
	if l.Interrupted && l.Then == nil {
		return atf("interrupted", "interrupted: then says what comes after it")
	}
	if l.Requests == 0 {
		if l.Close || len(l.Headers) > 0 {
			return atf("headers", "headers and close are for HTTP: requests says how many on each connection")
		}
		if l.ServerFirst && l.To.Protocol == UDP {
			return atf("serverFirst", "a UDP server does not speak first")
		}
		return nil
	}
	switch {
	case l.Requests < 0 || l.Connections*l.Requests > MaxRequests:
		return atf("requests", "%d requests on each of %d connections: at most %d together", l.Requests, l.Connections, MaxRequests)
	case l.Close && l.Requests != 1:
		return atf("close", "close: one request on each connection, not %d", l.Requests)
	case l.To.Protocol == UDP || l.ServerFirst || l.To.Family == Mapped:
		return atf("to", "HTTP is for TCP, where the client speaks first, to an IPv4 or IPv6 address")
	}
	for _, w := range l.wants() {
		if w.Outcome == Connected && w.Via != ViaWaypoint {
			return atf("want.via", "HTTP is judged behind a waypoint only: via must be %s", ViaWaypoint)
		}
	}
	return nil
}
