package l4

import (
	"errors"
	"fmt"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// supported returns an intent.UnsupportedError for each part of s that this engine
// does not carry out, joined; nil when it can carry out all. What was applied
// before is none.
func supported(s intent.Snapshot, c changes) error {
	var missing []error
	add := func(field, format string, args ...any) {
		missing = append(missing, intent.UnsupportedError{Resource: fmt.Sprintf(format, args...), Field: field})
	}
	for _, svc := range c.services.added {
		if svc.Waypoint != nil {
			add("waypoint", "service %s", svc.Key())
		}
	}
	for _, w := range c.workloads.added {
		if w.Waypoint != nil {
			add("waypoint", "workload %s", w.UID)
		}
		if w.Unprotected {
			add("refusal of connections that a policy names", "workload %s", w.UID)
		}
	}
	for _, p := range s.Policies {
		add("enforcement", "policy %s", p.Key())
	}
	for _, r := range s.Routes {
		add("route", "service %s", r.Service)
	}
	return errors.Join(missing...)
}
