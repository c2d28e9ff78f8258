package l7_test

import (
	"net/http"
	"net/netip"
	"slices"
	"testing"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	inputs "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

const workloadType = "type.googleapis.com/istio.workload.Workload"

// serving adds a workload to the recorded main_internal, as istiod sends one that uses
// this waypoint.
func serving(t *testing.T, address string) func(l *listener.Listener) {
	wrapped := func(m proto.Message) *anypb.Any {
		a, err := ads.Pack(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	to := func(chain string) *xds.Matcher_OnMatch {
		return &xds.Matcher_OnMatch{OnMatch: &xds.Matcher_OnMatch_Action{
			Action: &xdscore.TypedExtensionConfig{Name: chain, TypedConfig: wrapped(wrapperspb.String(chain))},
		}}
	}
	return func(l *listener.Listener) {
		custom, ranges := l.FilterChainMatcher.GetMatcherTree().GetCustomMatch(), new(xds.IPMatcher)
		if err := custom.TypedConfig.UnmarshalTo(ranges); err != nil {
			t.Fatal(err)
		}
		ranges.RangeMatchers = append(ranges.RangeMatchers, &xds.IPMatcher_IPRangeMatcher{
			Ranges: []*xdscore.CidrRange{{AddressPrefix: address, PrefixLen: wrapperspb.UInt32(32)}},
			OnMatch: &xds.Matcher_OnMatch{OnMatch: &xds.Matcher_OnMatch_Matcher{Matcher: &xds.Matcher{
				MatcherType: &xds.Matcher_MatcherTree_{MatcherTree: &xds.Matcher_MatcherTree{
					Input: &xdscore.TypedExtensionConfig{Name: "application-protocol", TypedConfig: wrapped(&inputs.ApplicationProtocolInput{})},
					TreeType: &xds.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xds.Matcher_MatcherTree_MatchMap{
						Map: map[string]*xds.Matcher_OnMatch{"'http/1.1'": to("direct-http"), "'h2c'": to("direct-http")},
					}},
				}},
				OnNoMatch: to("direct-tcp"),
			}}},
		})
		custom.TypedConfig = wrapped(ranges)
	}
}

// What is handed over for a pod's own address reaches a pod that takes no HBONE; once
// istiod says that it takes that, it goes that way.
func TestWorkloadsOwnAddress(t *testing.T) {
	c := config(t)
	c.ProxyPort = intent.ProxyV2.Port()
	s := startScripted(t)
	address(t, echo1, echo2)
	backend(t, echo1+":8080", "v1")
	pod := &workloadapi.Workload{Uid: "c//Pod/demo/v1", Namespace: "demo", Addresses: [][]byte{netip.MustParseAddr(echo1).AsSlice()}}
	s.set(workloadType, pod.Uid, pod)
	s.edit(t, serving(t, echo1))
	control, err := l7.NewIstiod(c, istiod.Server{Address: scriptedAt, Plaintext: true}, "xds:"+scriptedAt)
	if err != nil {
		t.Fatal(err)
	}
	w := run(t, c, control)
	plainly := func(n int) func(st api.Status) bool {
		return func(st api.Status) bool {
			return st.Ready && slices.ContainsFunc(st.Changes, func(c api.Change) bool { return c.Kind == "hand-off-plain-to-workloads" && c.Count == n })
		}
	}
	w.until(t, "ready", plainly(2))
	if text := s.answer(ads.Listeners); text != "" {
		t.Fatalf("the listeners were refused: %s", text)
	}
	if status, body := through(t, proxy).get("http://" + echo1 + ":8080"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	pod.TunnelProtocol = workloadapi.TunnelProtocol_HBONE
	s.set(workloadType, pod.Uid, pod)
	w.until(t, "through HBONE", plainly(0))
}
