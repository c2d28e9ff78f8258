package admin

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// Policed is a Node whose source knows policies.
type Policed interface {
	// Policies returns those that came with what was applied last.
	Policies() []*intent.Policy
}

func (h handler) policies() []*intent.Policy {
	if n, is := h.node.(Policed); is {
		return n.Policies()
	}
	return nil
}

func (h handler) dumpPolicies(w http.ResponseWriter, _ *http.Request) {
	list := api.Policies{Header: header(api.PoliciesSchema), Policies: []api.Policy{}}
	s := h.node.Snapshot()
	for _, p := range h.policies() {
		list.Policies = append(list.Policies, policy(p, s.Workloads))
	}
	answer(w, list, nil)
}

func policy(p *intent.Policy, workloads []*intent.Workload) api.Policy {
	form := api.Policy{Name: p.Key(), Origin: origin(p), Action: "ALLOW", Scope: string(p.Scope), DryRun: p.DryRun, Workloads: []string{}, Rules: []string{}}
	if p.Deny {
		form.Action = "DENY"
	}
	if p.Scope == intent.ScopeSelector {
		form.Scope = "workload"
	}
	for _, w := range workloads {
		if p.Names(w) {
			form.Workloads = append(form.Workloads, w.Namespace+"/"+w.Name)
		}
	}
	for _, g := range p.Groups {
		form.Rules = append(form.Rules, ruleText(g))
	}
	return form
}

// Names under which istiod sends what a PeerAuthentication asks for: one policy for all
// that are STRICT and say no more, and one for each that says more.
const (
	strictName = "istio_converted_static_strict"
	peerPrefix = "converted_peer_authentication_"
)

// origin says what istiod has made a policy of, "" where it is an AuthorizationPolicy:
// nobody finds the others by the names that they have here.
func origin(p *intent.Policy) string {
	if p.Name == strictName {
		return "of every PeerAuthentication with mode STRICT"
	}
	if name, is := strings.CutPrefix(p.Name, peerPrefix); is {
		return "of PeerAuthentication " + p.Namespace + "/" + name
	}
	return ""
}

// titled is a policy's name, with what it was made of.
func titled(p *intent.Policy) string {
	if o := origin(p); o != "" {
		return p.Key() + " (" + o + ")"
	}
	return p.Key()
}

// ruleText writes a group as one line: what has to hold together is joined by "and".
func ruleText(g intent.PolicyGroup) string {
	var rules []string
	for _, r := range g.Rules {
		var matches []string
		for _, m := range r.Matches {
			var all []string
			for _, c := range m.Conditions {
				all = append(all, c.String())
			}
			matches = append(matches, strings.Join(all, " and "))
		}
		switch len(matches) {
		case 0:
		case 1:
			rules = append(rules, matches[0])
		default:
			rules = append(rules, "("+strings.Join(matches, ") or (")+")")
		}
	}
	if len(rules) == 0 {
		return "any connection"
	}
	return strings.Join(rules, " and ")
}

func (h handler) workloads(w http.ResponseWriter, _ *http.Request) {
	list := api.Workloads{Header: header(api.WorkloadsSchema), Workloads: []api.Workload{}}
	policies := h.policies()
	general := without(policies, intent.ScopeSelector)
	tried := map[string]bool{}
	for _, p := range policies {
		tried[p.Key()] = p.DryRun
	}
	for _, w := range h.node.Snapshot().Workloads {
		list.Workloads = append(list.Workloads, workload(w, general, tried))
	}
	answer(w, list, nil)
}

// workload writes one; general are the policies that no workload names itself, tried
// those that are not to be enforced.
func workload(w *intent.Workload, general []*intent.Policy, tried map[string]bool) api.Workload {
	form := api.Workload{
		UID: w.UID, Name: w.Namespace + "/" + w.Name, Hostname: w.Hostname, Addresses: w.Addresses,
		Node: w.Node, Network: w.Network, Cluster: w.Cluster, Weight: w.Weight, Healthy: !w.Unhealthy,
		Gateway: w.Gateway, Refused: w.Unprotected,
	}
	for _, key := range w.Policies {
		if !tried[key] {
			form.Unenforced = append(form.Unenforced, key)
		}
	}
	if w.Waypoint != nil {
		form.Waypoint = w.Waypoint.Name
	}
	for _, p := range general {
		if p.Names(w) && !p.DryRun {
			form.Unenforced = append(form.Unenforced, p.Key())
		}
	}
	return form
}

// unenforced says in sentences which policies name the workloads of a decision.
func unenforced(policies []*intent.Policy, s intent.Snapshot, e api.Explanation, d intent.Decision) []string {
	const most = 10
	var why []string
	seen := map[string]bool{}
	for _, w := range concerned(s, e, d) {
		for _, p := range policies {
			line := fmt.Sprintf("Policy %s names %s/%s: received, NOT ENFORCED.", titled(p), w.Namespace, w.Name)
			if p.DryRun || seen[line] || !p.Names(w) {
				continue
			}
			if seen[line] = true; len(why) == most {
				return append(why, "And more policies and workloads: see `duomesh dump policies`.")
			}
			why = append(why, line)
		}
	}
	return why
}

// concerned are the workloads that a decision is about: also those that have the address
// of an endpoint under another name, as a pod behind a WorkloadEntry.
func concerned(s intent.Snapshot, e api.Explanation, d intent.Decision) []*intent.Workload {
	var all []*intent.Workload
	at := map[netip.Addr]bool{}
	for _, t := range d.Targets {
		all = append(all, t.Workload)
		at[t.Addr.Addr()] = true
	}
	for _, w := range s.Workloads {
		if slices.ContainsFunc(w.Addresses, func(a netip.Addr) bool { return at[a] }) {
			all = append(all, w)
		}
	}
	for _, svc := range s.Services {
		if svc.Key() == d.Service {
			for _, ep := range svc.Endpoints {
				all = append(all, ep.Workload)
			}
		}
	}
	if w := ownerOf(s, e.To.Addr()); w != nil && d.Service == "" {
		all = append(all, w)
	}
	return all
}
