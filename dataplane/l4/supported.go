package l4

import (
	"errors"
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// supported returns an intent.UnsupportedError for each part of s that this engine
// does not carry out, joined; nil when it can carry out all. What was applied
// before is none.
func supported(s intent.Snapshot, c changes, no missing) error {
	var all []error
	add := func(field, format string, args ...any) {
		all = append(all, intent.UnsupportedError{Resource: fmt.Sprintf(format, args...), Field: field})
	}
	for _, svc := range c.services.added {
		if field := no.unsupported(svc.Waypoint); field != "" {
			add(field, "service %s", svc.Key())
		}
	}
	for _, w := range c.workloads.added {
		if field := no.unsupported(w.OwnWaypoint()); field != "" {
			add(field, "workload %s", w.UID)
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
	return errors.Join(all...)
}

// missing is why this kernel brings nothing to a waypoint by an option in the SYN, or
// by a header; nil when it can.
type missing struct{ handoff, headers error }

// unsupported names what is not carried out of a waypoint, "" when it is.
func (m missing) unsupported(w *intent.Waypoint) string {
	switch {
	case w == nil:
		return ""
	case w.Codec == intent.OriginalDst && m.handoff != nil:
		return fmt.Sprintf("waypoint (%v)", m.handoff)
	case headerFlags[w.Codec] != 0 && m.headers != nil:
		return fmt.Sprintf("waypoint codec %s (%v)", w.Codec, m.headers)
	}
	return ""
}

// hasWaypoint: a route is the waypoint's to carry out.
func hasWaypoint(s intent.Snapshot, service string) bool {
	return slices.ContainsFunc(s.Services, func(svc *intent.Service) bool {
		return svc.Key() == service && svc.Waypoint != nil
	})
}
