package netsim

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// declareWaypoints makes the waypoints that services of o name; what did not change
// since old is shared by pointer.
func (c *Cluster) declareWaypoints(old, d *desired, o scenario.Objects) error {
	is := func(name string) bool { return c.pods[name] != nil && c.pods[name].spec.Waypoint }
	for _, s := range o.Services {
		name := s.Waypoint
		if name == "" || d.waypoints[name] != nil {
			continue
		}
		pods, there := o.WaypointPods(name, is)
		if !there {
			return fmt.Errorf("service %s: waypoint %s: no such waypoint is declared, and no waypoint pod has the name", s.Name, name)
		}
		codec, port := o.HandOff(name)
		w := &intent.Waypoint{Name: namespace + "/" + name, Codec: intent.Codec(codec), Port: port}
		for _, pod := range pods {
			if !is(pod) {
				return fmt.Errorf("waypoint %s: pod %s is no waypoint", name, pod)
			}
			w.Endpoints = append(w.Endpoints, intent.Endpoint{Workload: d.workload(old, c.pods[pod], share{pod: pod, weight: 1})})
		}
		if before := old.waypoints[name]; reflect.DeepEqual(before, w) {
			w = before
		}
		d.waypoints[name] = w
	}
	return nil
}

// routes are the HTTP rules of o; one that did not change since old is shared by
// pointer.
func (d *desired) routes(old *desired, o scenario.Objects) {
	for _, s := range o.Services {
		for _, r := range s.Routes {
			route := &intent.Route{
				Service: namespace + "/" + s.Name, Match: intent.HeaderMatch{Name: r.Header, Exact: r.Exact}, Timeout: r.Timeout,
			}
			for _, b := range r.Backends {
				route.Backends = append(route.Backends, intent.Backend{Service: namespace + "/" + b.Service, Port: b.Port, Weight: b.Weight})
			}
			at := slices.IndexFunc(old.snapshot.Routes, func(before *intent.Route) bool { return reflect.DeepEqual(before, route) })
			if at >= 0 {
				route = old.snapshot.Routes[at]
			}
			d.snapshot.Routes = append(d.snapshot.Routes, route)
		}
	}
}

// podsOf are the endpoints of a service.
func (d *desired) podsOf(service string) []string {
	var pods []string
	for _, s := range d.objects.Services {
		if s.Name != service {
			continue
		}
		for _, e := range s.Endpoints {
			pods = append(pods, e.Pod)
		}
	}
	return pods
}

// forWaypoint is the state as one waypoint pod is given it: what goes through any
// waypoint that it is a replica of goes through the waypoint of the pod's own name.
func (d *desired) forWaypoint(p *pod) intent.Snapshot {
	s := intent.Snapshot{Workloads: d.snapshot.Workloads, Routes: d.snapshot.Routes}
	own := &intent.Waypoint{Name: waypointName(p), Codec: intent.OriginalDst, Port: scenario.HandOffPort}
	for _, svc := range d.snapshot.Services {
		mine := *svc
		if mine.Waypoint != nil {
			is := slices.ContainsFunc(mine.Waypoint.Endpoints, func(e intent.Endpoint) bool { return e.Workload.Name == p.spec.Name })
			mine.Waypoint = nil
			if is {
				mine.Waypoint = own
			}
		}
		s.Services = append(s.Services, &mine)
	}
	s.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r *intent.Route) bool {
		return !slices.ContainsFunc(s.Services, func(svc *intent.Service) bool { return svc.Key() == r.Service && svc.Waypoint != nil })
	})
	return s
}

func waypointName(p *pod) string { return namespace + "/" + p.spec.Name }
