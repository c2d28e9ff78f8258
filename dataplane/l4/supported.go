package l4

import (
	"errors"
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// supported returns an intent.UnsupportedError for each part of s that this engine
// does not carry out, joined; nil when it can carry out all.
func supported(s intent.Snapshot) error {
	var all []error
	add := func(field, format string, args ...any) {
		all = append(all, intent.UnsupportedError{Resource: fmt.Sprintf(format, args...), Field: field})
	}
	for _, p := range s.Policies {
		add("enforcement", "policy %s", p.Key())
	}
	for _, r := range s.Routes {
		if !hasWaypoint(s, r.Service) {
			add("route without a waypoint", "service %s", r.Service)
		}
	}
	return errors.Join(all...)
}

// missing is why this kernel brings nothing to a waypoint by an option in the SYN, or
// by a header; nil when it can.
type missing struct{ handoff, headers error }

func (m missing) forCodec(c intent.Codec) error {
	if headerFlags[c] != 0 {
		return m.headers
	}
	return m.handoff
}

// Unserved says which waypoints of the applied Snapshot get no connection, since this
// kernel cannot hand over in their way, a line each: what is to go to them is refused,
// never let past them.
func (e *Engine) Unserved() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []string
	for _, w := range e.state.ways {
		if w.lacks != nil {
			all = append(all, fmt.Sprintf("waypoint %s: TCP connections to the %d services and workloads that have it are refused (%s): %v",
				w.of.Name, w.users, intent.RefuseNoWaypoint, w.lacks))
		}
	}
	slices.Sort(all)
	return all
}

// hasWaypoint: a route is the waypoint's to carry out.
func hasWaypoint(s intent.Snapshot, service string) bool {
	return slices.ContainsFunc(s.Services, func(svc *intent.Service) bool {
		return svc.Key() == service && svc.Waypoint != nil
	})
}
