package l4

import "github.com/duomesh/duomesh/dataplane/intent"

// news is the part of a Snapshot that was not looked at when the last one was
// applied: values are immutable. It is the whole where names may clash.
func (s *state) news(next intent.Snapshot) intent.Snapshot {
	if len(next.Routes) > 0 {
		return next
	}
	fresh := intent.Snapshot{Policies: next.Policies, Workloads: s.newWorkloads(next.Workloads)}
	var ok bool
	if fresh.Services, ok = s.exchanged(next.Services); ok {
		return fresh
	}
	fresh.Services = nil
	names := make(map[string]struct{}, len(next.Services))
	for _, svc := range next.Services {
		names[svc.Key()] = struct{}{}
		if s.services[svc] == nil {
			fresh.Services = append(fresh.Services, svc)
		}
	}
	if len(names) < len(next.Services) {
		return next
	}
	return fresh
}

// exchanged returns the services that stand in the place of another version; not
// ok where that is not all that differs.
func (s *state) exchanged(next []*intent.Service) (changed []*intent.Service, ok bool) {
	if len(next) != len(s.order) {
		return nil, false
	}
	for i, svc := range next {
		if svc == s.order[i] {
			continue
		}
		if svc.Key() != s.order[i].Key() {
			return nil, false
		}
		changed = append(changed, svc)
	}
	return changed, true
}

// newWorkloads returns those that stand in the place of another version, or all
// where more differs.
func (s *state) newWorkloads(next []*intent.Workload) []*intent.Workload {
	if len(next) != len(s.workloads) {
		return next
	}
	var changed []*intent.Workload
	for i, w := range next {
		if w == s.workloads[i] {
			continue
		}
		if w.UID != s.workloads[i].UID {
			return next
		}
		changed = append(changed, w)
	}
	return changed
}
