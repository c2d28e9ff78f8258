package l4

import (
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// validate is Snapshot.Validate, without a second look at the values that were
// applied before: they are immutable.
func (s *state) validate(next intent.Snapshot) error {
	if len(next.Routes) > 0 {
		return next.Validate()
	}
	var changed intent.Snapshot
	names := make(map[string]struct{}, len(next.Services))
	for _, svc := range next.Services {
		names[svc.Key()] = struct{}{}
		if s.services[svc] == nil {
			changed.Services = append(changed.Services, svc)
		}
	}
	if len(names) < len(next.Services) {
		return next.Validate() // it names the one that is declared twice
	}
	if !slices.Equal(next.Workloads, s.workloads) {
		changed.Workloads = next.Workloads
	}
	return changed.Validate()
}
