package xds

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi/security"
)

func named(policies ...string) func(*workloadapi.Workload) {
	return func(w *workloadapi.Workload) { w.AuthorizationPolicies = policies }
}

func TestRecordedPolicies(t *testing.T) {
	got := taken(t).allPolicies()
	condition := func(attribute string, not bool, values ...string) intent.PolicyCondition {
		return intent.PolicyCondition{Attribute: attribute, Not: not, Values: values}
	}
	rule := func(all ...intent.PolicyCondition) intent.PolicyRule {
		return intent.PolicyRule{Matches: []intent.PolicyMatch{{Conditions: all}}}
	}
	groups := func(rules ...intent.PolicyRule) []intent.PolicyGroup { return []intent.PolicyGroup{{Rules: rules}} }
	want := []*intent.Policy{
		{Name: "allow-client", Namespace: "demo", Groups: append(
			groups(rule(condition("destinationPorts", false, "8080")),
				rule(condition("principals", false, "cluster.local/ns/demo/sa/client", "cluster.local/ns/demo/sa/waypoint"))),
			groups(rule(condition("namespaces", true, "evil"), condition("sourceIps", false, "10.244.0.0/24")))...)},
		{Name: "deny-ns", Namespace: "demo", Scope: intent.ScopeNamespace, Deny: true, Groups: groups(rule(condition("namespaces", false, "evil")))},
		{Name: "istio_converted_static_strict", Namespace: "istio-system", Deny: true, Groups: groups(rule(condition("principals", true, "*")))},
		{Name: "root-deny", Namespace: "istio-system", Scope: intent.ScopeMesh, Deny: true, Groups: groups(rule(condition("destinationPorts", false, "9999")))},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// With RefuseUnenforced the workloads that a policy names are refused, as long as it
// names them, and no other; a dry run names nobody.
func TestRefuseUnenforced(t *testing.T) {
	const refused, web, free = "refuse-policy", "redirect 10.1.0.1:8080", "redirect 10.1.0.2:8080"
	m := given(t, Config{RefuseUnenforced: true}, svc("web", "10.9.0.1"), svc("free", "10.9.0.2"),
		wl("a", "10.1.0.1", []string{"web"}, named("demo/p")), wl("b", "10.1.0.2", []string{"free"}))
	expect := func(a, b string) {
		t.Helper()
		direct := map[string]string{refused: refused, web: "pass-no-vip", free: "pass-no-vip"}
		wantGoes(t, m, map[string]string{"10.9.0.1:80": a, "10.9.0.2:80": b, "10.1.0.1:1": direct[a], "10.1.0.2:1": direct[b]})
	}
	expect(refused, free) // the workload says so: the policy may be on its way
	m.give(t, authorizationType, list1(authz("p", func(a *security.Authorization) { a.DryRun = true })))
	expect(web, free)
	m.give(t, authorizationType, list1(authz("p", nil)))
	expect(refused, free)
	for _, scope := range []security.Scope{security.Scope_NAMESPACE, security.Scope_GLOBAL} {
		m.give(t, authorizationType, list1(authz("wide", func(a *security.Authorization) { a.Scope = scope })))
		expect(refused, refused)
		m.give(t, authorizationType, list1(authz("wide", func(a *security.Authorization) { a.Scope, a.DryRun = scope, true })))
		expect(refused, free)
		m.give(t, authorizationType, nil, "demo/wide")
	}
	m.give(t, authorizationType, list1(authz("wide", func(a *security.Authorization) { a.Scope, a.Namespace = security.Scope_NAMESPACE, "other" })))
	expect(refused, free)
	m.give(t, addressType, list1(wl("a", "10.1.0.1", []string{"web"})))
	expect(web, free)
	// The control: without it nothing is refused.
	m = given(t, Config{}, svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"}, named("demo/p")))
	wantGoes(t, m, map[string]string{"10.9.0.1:80": web})
	if w := workloadOf(t, m, "a"); w.Unprotected || len(w.Policies) != 1 {
		t.Errorf("%+v", w)
	}
}
