package file

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// share returns a Snapshot of the same values as next in which everything that
// has not changed since last, with all that it refers to, is last's own value.
// It changes values of next, which nobody else may have yet.
func share(last, next intent.Snapshot) intent.Snapshot {
	s := newSharer(last, next)
	s.spread()
	s.adopt()
	for i, svc := range next.Services {
		next.Services[i] = s.service(svc)
	}
	for i, w := range next.Workloads {
		next.Workloads[i] = s.workload(w)
	}
	same(last.Policies, next.Policies)
	same(last.Routes, next.Routes)
	return next
}

// sharer knows which workloads and waypoints are as they were. A workload may
// refer to a waypoint whose replicas are workloads, in a circle, so what is
// unchanged is found by taking away: first all that have changed themselves,
// then what refers to one of those, until nothing more is found.
type sharer struct {
	workloads map[*intent.Workload]*intent.Workload // of next → of last
	waypoints map[*intent.Waypoint]*intent.Waypoint // of next → of last
	services  map[string]*intent.Service            // of last, by key
	next      intent.Snapshot
	fresh     map[string]*intent.Waypoint // of next, by name
}

func newSharer(last, next intent.Snapshot) *sharer {
	s := &sharer{
		workloads: map[*intent.Workload]*intent.Workload{},
		waypoints: map[*intent.Waypoint]*intent.Waypoint{},
		services:  map[string]*intent.Service{},
		next:      next,
		fresh:     waypointsOf(next),
	}
	for _, svc := range last.Services {
		s.services[svc.Key()] = svc
	}
	workloads := map[string]*intent.Workload{}
	for _, w := range last.Workloads {
		workloads[w.UID] = w
	}
	for _, w := range next.Workloads {
		if old := workloads[w.UID]; old != nil && sameWorkload(old, w) {
			s.workloads[w] = old
		}
	}
	waypoints := waypointsOf(last)
	for name, w := range s.fresh {
		if old := waypoints[name]; old != nil && old.Codec == w.Codec && old.Port == w.Port && reflect.DeepEqual(old.Balance, w.Balance) {
			s.waypoints[w] = old
		}
	}
	return s
}

// spread takes away what refers to something that has changed.
func (s *sharer) spread() {
	for again := true; again; {
		again = false
		for w, old := range s.waypoints {
			if !s.sameEndpoints(old.Endpoints, w.Endpoints) {
				delete(s.waypoints, w)
				again = true
			}
		}
		for w, old := range s.workloads {
			if s.waypoint(w.Waypoint) != old.Waypoint {
				delete(s.workloads, w)
				again = true
			}
		}
	}
}

// adopt makes the changed values of next refer to last's unchanged ones.
func (s *sharer) adopt() {
	for _, svc := range s.next.Services {
		svc.Waypoint = s.waypoint(svc.Waypoint)
		s.adoptEndpoints(svc.Endpoints)
	}
	for _, w := range s.next.Workloads {
		w.Waypoint = s.waypoint(w.Waypoint)
	}
	for _, w := range s.fresh {
		s.adoptEndpoints(w.Endpoints)
	}
}

func (s *sharer) adoptEndpoints(all []intent.Endpoint) {
	for i := range all {
		all[i].Workload = s.workload(all[i].Workload)
	}
}

// service returns last's service when it is as svc, which was adopted.
func (s *sharer) service(svc *intent.Service) *intent.Service {
	old := s.services[svc.Key()]
	if old == nil || !sameService(old, svc) || !s.sameEndpoints(old.Endpoints, svc.Endpoints) {
		return svc
	}
	return old
}

func (s *sharer) workload(w *intent.Workload) *intent.Workload {
	if old := s.workloads[w]; old != nil {
		return old
	}
	return w
}

func (s *sharer) waypoint(w *intent.Waypoint) *intent.Waypoint {
	if old := s.waypoints[w]; old != nil {
		return old
	}
	return w
}

func (s *sharer) sameEndpoints(old, all []intent.Endpoint) bool {
	return slices.EqualFunc(old, all, func(a, b intent.Endpoint) bool {
		return a.Workload == s.workload(b.Workload) && maps.Equal(a.Ports, b.Ports)
	})
}

// sameWorkload compares all but the waypoint.
func sameWorkload(a, b *intent.Workload) bool {
	x, y := *a, *b
	x.Waypoint, y.Waypoint = nil, nil
	return reflect.DeepEqual(x, y)
}

// sameService compares all but the endpoints; a waypoint that has not changed
// is the same pointer.
func sameService(a, b *intent.Service) bool {
	x, y := *a, *b
	x.Endpoints, y.Endpoints = nil, nil
	x.Waypoint, y.Waypoint = nil, nil
	return a.Waypoint == b.Waypoint && reflect.DeepEqual(x, y)
}

// waypointsOf returns the waypoints of a Snapshot that Parse made, where names
// are unique.
func waypointsOf(s intent.Snapshot) map[string]*intent.Waypoint {
	all := map[string]*intent.Waypoint{}
	for _, svc := range s.Services {
		if svc.Waypoint != nil {
			all[svc.Waypoint.Name] = svc.Waypoint
		}
	}
	for _, w := range s.Workloads {
		if w.Waypoint != nil {
			all[w.Waypoint.Name] = w.Waypoint
		}
	}
	return all
}

// same puts last's values in the place of next's equal ones. T holds no
// pointers, so that equal values are printed alike.
func same[T any](last, next []*T) {
	known := make(map[string]*T, len(last))
	for _, v := range last {
		known[fmt.Sprintf("%#v", *v)] = v
	}
	for i, v := range next {
		if old := known[fmt.Sprintf("%#v", *v)]; old != nil {
			next[i] = old
		}
	}
}
