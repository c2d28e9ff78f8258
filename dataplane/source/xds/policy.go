package xds

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi/security"
)

// protects counts the policies that name workloads otherwise than by a selector.
type protects struct {
	all        int
	namespaces map[string]int
}

func (p *protects) count(of *intent.Policy, by int) {
	switch {
	case of == nil || of.DryRun:
	case of.Scope == intent.ScopeMesh:
		p.all += by
	case of.Scope == intent.ScopeNamespace:
		if p.namespaces[of.Namespace] += by; p.namespaces[of.Namespace] == 0 {
			delete(p.namespaces, of.Namespace)
		}
	}
}

// setPolicy replaces a policy; nil takes it away.
func (m *mesh) setPolicy(name string, p *intent.Policy) {
	old := m.policies[name]
	if p == nil {
		delete(m.policies, name)
	} else {
		m.policies[name] = p
	}
	if sameValue(old, p) {
		return
	}
	m.recount(old, p)
}

// setUnread says what is known of a policy that cannot be used; nil: it can, or it is
// gone. What nobody could enforce must not let through what it is there to stop.
func (m *mesh) setUnread(name string, p *intent.Policy) {
	old := m.unread[name]
	if p == nil {
		delete(m.unread, name)
	} else {
		m.unread[name] = p
	}
	if !sameValue(old, p) {
		m.recount(old, p)
	}
}

// recount follows a policy that has become another one.
func (m *mesh) recount(old, now *intent.Policy) {
	m.protects.count(old, -1)
	m.protects.count(now, 1)
	if m.config.RefuseUnenforced {
		for _, w := range m.workloads { // one that nothing follows for stays as it is
			m.changed.add(w)
		}
	}
}

// unreadable is what is known of a policy of which something is not: nothing that was
// not read makes it narrower.
func unreadable(name string, p *security.Authorization) *intent.Policy {
	out := &intent.Policy{Name: p.Name, Namespace: p.Namespace, DryRun: p.DryRun, Scope: intent.ScopeMesh}
	if out.Key() != name {
		namespace, own, _ := strings.Cut(name, "/")
		return &intent.Policy{Name: own, Namespace: namespace, Scope: intent.ScopeMesh}
	}
	if scope, known := policyScopes[p.Scope]; known {
		out.Scope = scope
	}
	out.Deny = p.Action == security.Action_DENY
	return out
}

// named reports whether a policy names a workload that is to be enforced. One that
// the workload says itself counts before it has come.
func (m *mesh) named(w *intent.Workload) bool {
	return m.protects.all > 0 || m.protects.namespaces[w.Namespace] > 0 ||
		slices.ContainsFunc(w.Policies, func(name string) bool {
			p, unread := m.policies[name], m.unread[name]
			switch {
			case unread != nil && !unread.DryRun:
				return true
			case p == nil:
				return unread == nil
			}
			return !p.DryRun
		})
}

// allPolicies are in the order of their names; one that cannot be used is there as
// what is known of it.
func (m *mesh) allPolicies() []*intent.Policy {
	all := slices.Collect(maps.Values(m.unread))
	for name, p := range m.policies {
		if m.unread[name] == nil {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *intent.Policy) int { return cmp.Compare(a.Key(), b.Key()) })
	return all
}

var policyScopes = map[security.Scope]intent.PolicyScope{
	security.Scope_GLOBAL:            intent.ScopeMesh,
	security.Scope_NAMESPACE:         intent.ScopeNamespace,
	security.Scope_WORKLOAD_SELECTOR: intent.ScopeSelector,
}

// decodePolicy takes a policy as it is sent under a name.
func decodePolicy(name string, p *security.Authorization) (*intent.Policy, error) {
	out := &intent.Policy{Name: p.Name, Namespace: p.Namespace, DryRun: p.DryRun}
	if out.Key() != name {
		return nil, fmt.Errorf("the policy in it has another name: %s", out.Key())
	}
	var known bool
	if out.Scope, known = policyScopes[p.Scope]; !known {
		return nil, fmt.Errorf("policy scope %d is not known", p.Scope)
	}
	switch p.Action {
	case security.Action_ALLOW:
	case security.Action_DENY:
		out.Deny = true
	default:
		return nil, fmt.Errorf("policy action %d is not known", p.Action)
	}
	for _, g := range p.Groups {
		var group intent.PolicyGroup
		for _, r := range g.Rules {
			rule, err := decodeRule(r)
			if err != nil {
				return nil, err
			}
			group.Rules = append(group.Rules, rule)
		}
		out.Groups = append(out.Groups, group)
	}
	return out, nil
}

func decodeRule(r *security.Rules) (rule intent.PolicyRule, err error) {
	for _, sent := range r.Matches {
		d := conditions{}
		d.texts("namespaces", sent.Namespaces, sent.NotNamespaces)
		d.accounts(sent.ServiceAccounts, sent.NotServiceAccounts)
		d.texts("principals", sent.Principals, sent.NotPrincipals)
		d.addresses("sourceIps", sent.SourceIps, sent.NotSourceIps)
		d.addresses("destinationIps", sent.DestinationIps, sent.NotDestinationIps)
		d.ports(sent.DestinationPorts, sent.NotDestinationPorts)
		if d.err != nil {
			return rule, d.err
		}
		rule.Matches = append(rule.Matches, intent.PolicyMatch{Conditions: d.all})
	}
	return rule, nil
}

// conditions collects those of one match.
type conditions struct {
	all []intent.PolicyCondition
	err error
}

func (c *conditions) add(attribute string, not bool, values []string) {
	if len(values) > 0 {
		c.all = append(c.all, intent.PolicyCondition{Attribute: attribute, Not: not, Values: values})
	}
}

func (c *conditions) texts(attribute string, all ...[]*security.StringMatch) {
	for i, list := range all {
		var values []string
		for _, s := range list {
			switch t := s.MatchType.(type) {
			case *security.StringMatch_Exact:
				values = append(values, t.Exact)
			case *security.StringMatch_Prefix:
				values = append(values, t.Prefix+"*")
			case *security.StringMatch_Suffix:
				values = append(values, "*"+t.Suffix)
			case *security.StringMatch_Presence:
				values = append(values, "*")
			default:
				c.err = fmt.Errorf("%s: a match of unknown form", attribute)
			}
		}
		c.add(attribute, i == 1, values)
	}
}

func (c *conditions) accounts(all ...[]*security.ServiceAccountMatch) {
	for i, list := range all {
		var values []string
		for _, a := range list {
			values = append(values, a.Namespace+"/"+a.ServiceAccount)
		}
		c.add("serviceAccounts", i == 1, values)
	}
}

func (c *conditions) addresses(attribute string, all ...[]*security.Address) {
	for i, list := range all {
		var values []string
		for _, a := range list {
			addr, ok := netip.AddrFromSlice(a.Address)
			prefix := netip.PrefixFrom(addr, int(min(a.Length, 129)))
			if !ok || !prefix.IsValid() {
				c.err = fmt.Errorf("%s: %d bytes / %d is no prefix", attribute, len(a.Address), a.Length)
				continue
			}
			values = append(values, prefix.String())
		}
		c.add(attribute, i == 1, values)
	}
}

func (c *conditions) ports(all ...[]uint32) {
	for i, list := range all {
		var values []string
		for _, p := range list {
			if p == 0 || p > 65535 {
				c.err = fmt.Errorf("destinationPorts: port %d is none", p)
			}
			values = append(values, strconv.FormatUint(uint64(p), 10))
		}
		c.add("destinationPorts", i == 1, values)
	}
}
