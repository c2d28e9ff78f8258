package relay

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"testing"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	inputs "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// forWorkloads is the recorded main_internal of a waypoint that serves these addresses of
// workloads as well, in the form in which istiod sends that.
func forWorkloads(t *testing.T, addrs ...string) map[string]*anypb.Any {
	t.Helper()
	raw := recorded(t)
	var l listener.Listener
	if err := raw[mainInternal].UnmarshalTo(&l); err != nil {
		t.Fatal(err)
	}
	to := func(chain string) *xds.Matcher_OnMatch {
		return &xds.Matcher_OnMatch{OnMatch: &xds.Matcher_OnMatch_Action{
			Action: &xdscore.TypedExtensionConfig{Name: chain, TypedConfig: packed(t, wrapperspb.String(chain))},
		}}
	}
	one := &xds.IPMatcher_IPRangeMatcher{OnMatch: &xds.Matcher_OnMatch{OnMatch: &xds.Matcher_OnMatch_Matcher{Matcher: &xds.Matcher{
		MatcherType: &xds.Matcher_MatcherTree_{MatcherTree: &xds.Matcher_MatcherTree{
			Input: &xdscore.TypedExtensionConfig{Name: "application-protocol", TypedConfig: packed(t, &inputs.ApplicationProtocolInput{})},
			TreeType: &xds.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xds.Matcher_MatcherTree_MatchMap{
				Map: map[string]*xds.Matcher_OnMatch{"'http/1.1'": to("direct-http"), "'h2c'": to("direct-http")},
			}},
		}},
		OnNoMatch: to("direct-tcp"),
	}}}}
	for _, a := range addrs {
		one.Ranges = append(one.Ranges, single(netip.MustParseAddr(a)))
	}
	custom, ranges := addresses(l.FilterChainMatcher).GetMatcherTree().GetCustomMatch(), new(xds.IPMatcher)
	if err := custom.TypedConfig.UnmarshalTo(ranges); err != nil {
		t.Fatal(err)
	}
	ranges.RangeMatchers = append(ranges.RangeMatchers, one)
	custom.TypedConfig = packed(t, ranges)
	raw[mainInternal] = packed(t, &l)
	return raw
}

// leading are the addresses from which a listener leads to a chain.
func leading(t *testing.T, l *listener.Listener, chain string) []string {
	t.Helper()
	ranges := new(xds.IPMatcher)
	if err := addresses(l.FilterChainMatcher).GetMatcherTree().GetCustomMatch().TypedConfig.UnmarshalTo(ranges); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range ranges.RangeMatchers {
		there := false
		if err := leaf(r.OnMatch, func(on *xds.Matcher_OnMatch) error {
			there = there || leadsTo(on, chain)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Ranges {
			if there {
				all = append(all, c.AddressPrefix)
			}
		}
	}
	return all
}

// clusterOf is where all of a chain's traffic goes.
func clusterOf(t *testing.T, c *listener.FilterChain) string {
	t.Helper()
	config := c.Filters[len(c.Filters)-1].GetTypedConfig()
	var p tcp.TcpProxy
	if config.UnmarshalTo(&p) == nil {
		return p.GetCluster()
	}
	var h hcm.HttpConnectionManager
	if err := config.UnmarshalTo(&h); err != nil {
		t.Fatal(err)
	}
	return h.GetRouteConfig().VirtualHosts[0].Routes[0].GetRoute().GetCluster()
}

// What was handed over for a workload that takes no HBONE goes there as it came; what is
// for another, or for one that nothing is known of, as istiod says.
func TestWorkloadsWithoutHBONE(t *testing.T) {
	tr, err := NewTransformer(Ports{Port: handOffPort})
	if err != nil {
		t.Fatal(err)
	}
	ambient := workload("c//Pod/demo/ambient", "demo", "a", "10.244.0.31")
	ambient.TunnelProtocol = workloadapi.TunnelProtocol_HBONE
	tr.workloads = told(t, ambient, workload("c//Pod/demo/own", "demo", "a", "10.244.0.32", "fd00::32"))
	v, err := tr.Transform(forWorkloads(t, "10.244.0.31", "10.244.0.32", "10.244.0.33", "fd00::32"))
	if err != nil {
		t.Fatal(err)
	}
	for chain, want := range map[string][]string{
		"direct-http": {"10.244.0.31", "10.244.0.33"}, "direct-tcp": {"10.244.0.31", "10.244.0.33"},
		plain("direct-http"): {"10.244.0.32", "fd00::32"}, plain("direct-tcp"): {"10.244.0.32", "fd00::32"},
	} {
		if got := leading(t, v.HandOff, chain); !slices.Equal(got, want) {
			t.Errorf("to %s lead %v, want %v", chain, got, want)
		}
	}
	if v.counts[plainDirect] != 2 || v.Workloads == 0 {
		t.Errorf("counted %d chains, %d workloads", v.counts[plainDirect], v.Workloads)
	}
	want := map[string]string{
		"direct-http": "encap", "direct-tcp": "encap", plain("direct-http"): plainName, plain("direct-tcp"): plainName,
	}
	for _, c := range v.HandOff.FilterChains {
		if to := want[c.Name]; to != "" && clusterOf(t, c) != to {
			t.Errorf("%s leads to %s, want %s", c.Name, clusterOf(t, c), to)
		}
		delete(want, c.Name)
	}
	if len(want) > 0 {
		t.Errorf("there are no chains %v", want)
	}
	// HBONE's own listener stays as istiod has it, and nothing is added where no workload
	// is served.
	if bytes.Contains(v.Listeners[mainInternal].Any.Value, []byte(plainName)) {
		t.Error("main_internal was changed")
	}
	bare, err := tr.Transform(recorded(t))
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(chainNames(bare.HandOff), func(n string) bool { return n == plain("direct-tcp") }) {
		t.Error("chains for workloads where none is served")
	}
	if !slices.Contains(slices.Collect(maps.Keys(bare.Clusters)), plainName) {
		t.Errorf("the cluster must be there before it is referred to: %v", bare.Clusters)
	}
}

// An address is without HBONE when all that have it are.
func TestWhoTakesHBONE(t *testing.T) {
	waypoint := workload("c//Pod/demo/b", "demo", "b", "10.0.0.2")
	waypoint.TunnelProtocol = workloadapi.TunnelProtocol_HBONE
	s := told(t, workload("c//Pod/demo/a", "demo", "a", "10.0.0.1"), workload("c/entry/demo/a", "demo", "", "10.0.0.2"), waypoint)
	want := map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true, netip.MustParseAddr("10.0.0.2"): false}
	if got := s.withoutTunnel(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
