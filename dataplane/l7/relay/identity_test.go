package relay

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// workload is one as istiod sends it.
func workload(uid, namespace, account string, addrs ...string) *workloadapi.Workload {
	w := &workloadapi.Workload{Uid: uid, Namespace: namespace, ServiceAccount: account}
	for _, a := range addrs {
		w.Addresses = append(w.Addresses, netip.MustParseAddr(a).AsSlice())
	}
	return w
}

func told(t *testing.T, all ...*workloadapi.Workload) *sources {
	t.Helper()
	s := newSources("", slog.New(slog.DiscardHandler), func() {})
	tell(t, s, all...)
	return s
}

func tell(t *testing.T, s *sources, all ...*workloadapi.Workload) {
	t.Helper()
	r := istiod.Response{TypeURL: workloadType}
	for _, w := range all {
		a, err := anypb.New(w)
		if err != nil {
			t.Fatal(err)
		}
		r.Resources = append(r.Resources, istiod.Resource{Name: w.Uid, Body: a})
	}
	if bad := s.Take(r); len(bad) > 0 {
		t.Fatal(bad)
	}
}

func TestWhoHasAnAddress(t *testing.T) {
	node := workload("c//Pod/kube/agent", "kube", "agent", "10.0.0.9")
	node.NetworkMode = workloadapi.NetworkMode_HOST_NETWORK
	elsewhere := workload("c//Pod/demo/far", "demo", "far", "10.0.0.8")
	elsewhere.Network = "other"
	foreign := workload("c//Pod/demo/foreign", "demo", "f", "10.0.0.7")
	foreign.TrustDomain = "other.example"
	s := told(t,
		workload("c//Pod/demo/a", "demo", "a", "10.0.0.1", "fd00::1"),
		workload("c//Pod/demo/plain", "demo", "", "10.0.0.2"),
		workload("c//Pod/demo/b", "demo", "b", "10.0.0.3"), workload("c//Pod/evil/b", "evil", "b", "10.0.0.3"),
		workload("c//Pod/demo/twin1", "demo", "twin", "10.0.0.4"), workload("c//Pod/demo/twin2", "demo", "twin", "10.0.0.4"),
		workload("c/networking.istio.io/WorkloadEntry/evil/claim", "evil", "a", "10.0.0.1"),
		workload("c/networking.istio.io/WorkloadEntry/demo/vm", "demo", "vm", "10.0.0.5"),
		workload("c/networking.istio.io/ServiceEntry/demo/ext/10.0.0.6", "demo", "", "10.0.0.6"),
		node, elsewhere, foreign,
	)
	want := map[netip.Addr]string{
		netip.MustParseAddr("10.0.0.1"): "spiffe://cluster.local/ns/demo/sa/a",
		netip.MustParseAddr("fd00::1"):  "spiffe://cluster.local/ns/demo/sa/a",
		netip.MustParseAddr("10.0.0.2"): "spiffe://cluster.local/ns/demo/sa/default",
		netip.MustParseAddr("10.0.0.4"): "spiffe://cluster.local/ns/demo/sa/twin",
		netip.MustParseAddr("10.0.0.5"): "spiffe://cluster.local/ns/demo/sa/vm",
		netip.MustParseAddr("10.0.0.7"): "spiffe://other.example/ns/demo/sa/f",
	}
	if got := s.identities(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	s.Take(istiod.Response{TypeURL: workloadType, Removed: []string{"c//Pod/demo/b"}})
	if got := s.identities()[netip.MustParseAddr("10.0.0.3")]; got != "spiffe://cluster.local/ns/evil/sa/b" {
		t.Errorf("an address that is one pod's now is %q's", got)
	}
}

// Sources that some rule can tell apart are never in one group, and what stands for a
// group is to every rule what each of its sources is.
func TestGroupsAreWhatRulesCanTell(t *testing.T) {
	text := rapid.StringMatching(`[abAB/]{0,4}`)
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *matcher.StringMatcher {
			m := &matcher.StringMatcher{IgnoreCase: rapid.Bool().Draw(t, "fold")}
			p := text.Draw(t, "pattern")
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				m.MatchPattern = &matcher.StringMatcher_Exact{Exact: p}
			case 1:
				m.MatchPattern = &matcher.StringMatcher_Prefix{Prefix: p}
			case 2:
				m.MatchPattern = &matcher.StringMatcher_Suffix{Suffix: p}
			case 3:
				m.MatchPattern = &matcher.StringMatcher_Contains{Contains: p}
			default:
				m.MatchPattern = &matcher.StringMatcher_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: ".*" + p + ".*"}}
			}
			return m
		}), 1, 5).Draw(t, "rules")
		all := map[netip.Addr]string{}
		for i, identity := range rapid.SliceOfN(text, 1, 20).Draw(t, "identities") {
			all[netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})] = identity + "x"
		}
		chosen := map[string]string{}
		grouped(rules, map[netip.Addr]string{netip.IPv4Unspecified(): text.Draw(t, "before")}, chosen)
		g := grouped(rules, all, chosen)
		n := 0
		for name, addrs := range g.of {
			n += len(addrs)
			for _, a := range addrs {
				for i, r := range rules {
					if holdsFor(r, all[a]) != holdsFor(r, g.identity[name]) {
						t.Fatalf("rule %d tells %q and %q apart, which are both %s", i, all[a], g.identity[name], name)
					}
				}
			}
		}
		if n != len(all) {
			t.Fatalf("%d of %d addresses are in a group", n, len(all))
		}
	})
}

// What is asked in a way that is not understood is answered by refusal.
func TestRulesThatAreNotUnderstood(t *testing.T) {
	by := func(m *matcher.FilterStateMatcher) *rbac.RBAC {
		return &rbac.RBAC{Policies: map[string]*rbac.Policy{"p": {Principals: []*rbac.Principal{{
			Identifier: &rbac.Principal_FilterState{FilterState: m},
		}}}}}
	}
	exact := &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: "spiffe://a"}}
	asks := func(s *matcher.StringMatcher) *matcher.FilterStateMatcher {
		return &matcher.FilterStateMatcher{Key: principal, Matcher: &matcher.FilterStateMatcher_StringMatch{StringMatch: s}}
	}
	if rules, ok := principalRules(by(asks(exact))); !ok || len(rules) != 1 {
		t.Errorf("a rule that is understood: %v %t", rules, ok)
	}
	header := &rbac.RBAC{Policies: map[string]*rbac.Policy{"p": {Principals: []*rbac.Principal{{
		Identifier: &rbac.Principal_Header{Header: &route.HeaderMatcher{Name: principal}},
	}}}}}
	for name, r := range map[string]*rbac.RBAC{
		"in another place":     header,
		"an address":           by(&matcher.FilterStateMatcher{Key: principal}),
		"an unknown matcher":   by(asks(&matcher.StringMatcher{})),
		"a regex of no syntax": by(asks(&matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: "("}}})),
	} {
		if rules, ok := principalRules(r); ok {
			t.Errorf("%s: %v", name, rules)
		}
	}
}

// Whom an external authorizer is asked about is a rule like others; a dry run is none.
func TestShadowRulesThatAskAnAuthorizer(t *testing.T) {
	asks := &rbac.RBAC{Policies: map[string]*rbac.Policy{"p": {Principals: []*rbac.Principal{{
		Identifier: &rbac.Principal_FilterState{FilterState: &matcher.FilterStateMatcher{Key: principal}},
	}}}}}
	for prefix, want := range map[string]bool{"istio_ext_authz_": true, "": true, "istio_dry_run_allow_": false} {
		h := packed(t, &hcm.HttpConnectionManager{HttpFilters: []*hcm.HttpFilter{{
			Name: "rbac", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: packed(t, &httprbac.RBAC{ShadowRules: asks, ShadowRulesStatPrefix: prefix})},
		}}})
		for kind, config := range map[string]*anypb.Any{
			"HTTP": h, "TCP": packed(t, &tcprbac.RBAC{ShadowRules: asks, ShadowRulesStatPrefix: prefix}),
		} {
			c := &listener.FilterChain{Filters: []*listener.Filter{{ConfigType: &listener.Filter_TypedConfig{TypedConfig: config}}}}
			if _, named, err := principalsOf(c); named != want || err != nil {
				t.Errorf("%s, %q: named %t, want %t (%v)", kind, prefix, named, want, err)
			}
		}
	}
}

// The recorded chain that names a principal is refused, but for sources that are known:
// each way to it asks for the source's address first.
func TestChainsBySource(t *testing.T) {
	tr, err := NewTransformer(Ports{Port: handOffPort})
	if err != nil {
		t.Fatal(err)
	}
	tr.sources = told(t, workload("c//Pod/demo/client", "demo", "client", "10.244.0.10"), workload("c//Pod/evil/m", "evil", "m", "10.244.0.66"))
	v, err := tr.Transform(recorded(t))
	if err != nil {
		t.Fatal(err)
	}
	const chain = "inbound-vip|80|http|fortio.demo.svc.cluster.local"
	var variants []string
	for _, c := range v.HandOff.FilterChains {
		if strings.HasPrefix(c.Name, chain+"@") {
			variants = append(variants, c.Name)
			if c.Filters[0].Name != "handoff_identity" || len(c.Filters) < 2 {
				t.Errorf("%s begins with %s", c.Name, c.Filters[0].Name)
			}
		}
		if c.Name == chain && (len(c.Filters) != 1 || c.Filters[0].Name != "envoy.filters.network.tcp_proxy") {
			t.Errorf("the chain itself does not refuse: %v", filterNames(v.HandOff))
		}
	}
	if len(variants) != 2 {
		t.Errorf("variants %v, want one for the source that the rule names and one for the others", variants)
	}
	ways := map[string]int{}
	err = eachLeaf(v.HandOff.FilterChainMatcher, func(on *xds.Matcher_OnMatch) error {
		name := new(wrapperspb.StringValue)
		if err := on.GetAction().TypedConfig.UnmarshalTo(name); err != nil {
			return err
		}
		ways[name.Value]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(variants, chain) {
		if ways[name] == 0 || ways[name] != ways[chain] {
			t.Errorf("%d ways to %s, %d to the chain itself", ways[name], name, ways[chain])
		}
	}
	again, err := tr.Transform(recorded(t))
	if err != nil {
		t.Fatal(err)
	}
	same := maps.EqualFunc(v.Listeners, again.Listeners, func(a, b ads.Body) bool { return a.Version == b.Version })
	if !same || !slices.Equal(chainNames(v.HandOff), chainNames(again.HandOff)) {
		t.Error("equal listeners and sources give other bytes")
	}
}
