package admin

import (
	"net/netip"
	"sync"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// View is what follows from an applied Snapshot and the policies that came with it.
// It does not change.
type View struct {
	conflicts  func() []api.Conflict // worked out when it is asked for first
	unenforced []api.Unenforced
	workloads  int // that policies name
	refused    int // to which connections are refused for that reason
}

// someNames bounds the workloads that are written out for one policy.
const someNames = 5

// NewView works it out; what it costs grows with the mesh.
func NewView(s intent.Snapshot, policies []*intent.Policy) *View {
	v := &View{conflicts: sync.OnceValue(func() []api.Conflict { return conflicts(s) })}
	byName := map[string]int{}
	for i, p := range policies {
		byName[p.Key()] = i
		v.unenforced = append(v.unenforced, api.Unenforced{Policy: p.Key(), Origin: origin(p), DryRun: p.DryRun})
	}
	if len(policies) == 0 {
		return v
	}
	general := without(policies, intent.ScopeSelector)
	for _, w := range s.Workloads {
		named := false
		count := func(i int) {
			u := &v.unenforced[i]
			if u.Workloads++; len(u.Some) < someNames {
				u.Some = append(u.Some, w.Namespace+"/"+w.Name)
			}
			named = named || !u.DryRun
		}
		for _, key := range w.Policies {
			if i, known := byName[key]; known && policies[i].Scope == intent.ScopeSelector {
				count(i)
			}
		}
		for _, p := range general {
			if p.Names(w) {
				count(byName[p.Key()])
			}
		}
		if named {
			v.workloads++
		}
		if w.Unprotected {
			v.refused++
		}
	}
	return v
}

// without returns the policies of other scopes.
func without(policies []*intent.Policy, scope intent.PolicyScope) []*intent.Policy {
	var left []*intent.Policy
	for _, p := range policies {
		if p.Scope != scope {
			left = append(left, p)
		}
	}
	return left
}

// Complete adds to a status what the view knows.
func (v *View) Complete(s *api.Status) {
	s.Applied.Conflicts = v.conflicts()
	s.Source.Unenforced, s.Source.UnenforcedPolicies = v.unenforced, v.Policies()
	s.Source.UnenforcedWorkloads, s.Source.RefusedWorkloads = v.workloads, v.refused
}

// Policies is how many policies are to be enforced, and are not.
func (v *View) Policies() int {
	n := 0
	for _, u := range v.unenforced {
		if !u.DryRun {
			n++
		}
	}
	return n
}

// Workloads is how many workloads those name.
func (v *View) Workloads() int { return v.workloads }

// Refused is to how many workloads connections are refused for that reason.
func (v *View) Refused() int { return v.refused }

// conflicts looks closely only at services that share an address.
func conflicts(s intent.Snapshot) []api.Conflict {
	var all []api.Conflict
	first, sharing := make(map[netip.Addr]*intent.Service, len(s.Services)), map[*intent.Service]bool{}
	for _, svc := range s.Services {
		for _, a := range svc.Addresses {
			if other := first[a]; other == nil {
				first[a] = svc
			} else if other != svc {
				sharing[other], sharing[svc] = true, true
			}
		}
	}
	var some intent.Snapshot
	for _, svc := range s.Services {
		if sharing[svc] {
			some.Services = append(some.Services, svc)
		}
	}
	_, found := some.Claims()
	for _, c := range found {
		all = append(all, api.Conflict{Frontend: c.Frontend.String(), Services: c.Services})
	}
	return all
}
