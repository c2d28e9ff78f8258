package l4

import (
	"errors"
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// supported returns an intent.UnsupportedError for each part of s that this engine
// does not carry out, joined; nil when it can carry out all. What was applied
// before is none. noHandoff is why this kernel brings nothing to a waypoint, nil
// when it can.
func supported(s intent.Snapshot, c changes, noHandoff error) error {
	var missing []error
	add := func(field, format string, args ...any) {
		missing = append(missing, intent.UnsupportedError{Resource: fmt.Sprintf(format, args...), Field: field})
	}
	for _, svc := range c.services.added {
		if field := unsupportedWaypoint(svc.Waypoint, noHandoff); field != "" {
			add(field, "service %s", svc.Key())
		}
	}
	for _, w := range c.workloads.added {
		if field := unsupportedWaypoint(w.OwnWaypoint(), noHandoff); field != "" {
			add(field, "workload %s", w.UID)
		}
		if w.Unprotected {
			add("refusal of connections that a policy names", "workload %s", w.UID)
		}
	}
	for _, p := range s.Policies {
		add("enforcement", "policy %s", p.Key())
	}
	for _, r := range s.Routes {
		if !hasWaypoint(s, r.Service) {
			add("route without a waypoint", "service %s", r.Service)
		}
	}
	return errors.Join(missing...)
}

// unsupportedWaypoint names what is not carried out of a waypoint, "" when it is.
func unsupportedWaypoint(w *intent.Waypoint, noHandoff error) string {
	switch {
	case w == nil:
		return ""
	case w.Codec != intent.OriginalDst:
		return "waypoint codec " + string(w.Codec)
	case noHandoff != nil:
		return fmt.Sprintf("waypoint (%v)", noHandoff)
	}
	return ""
}

// hasWaypoint: a route is the waypoint's to carry out.
func hasWaypoint(s intent.Snapshot, service string) bool {
	return slices.ContainsFunc(s.Services, func(svc *intent.Service) bool {
		return svc.Key() == service && svc.Waypoint != nil
	})
}
