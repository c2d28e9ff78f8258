package relay

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

const handOffPort = 15029

// recorded are the listeners that an istiod has sent to a waypoint.
func recorded(t *testing.T) map[string]*anypb.Any {
	t.Helper()
	data, err := os.ReadFile("testdata/waypoint-listener.delta.pb")
	if err != nil {
		t.Fatal(err)
	}
	var m discovery.DeltaDiscoveryResponse
	if err := proto.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	all := map[string]*anypb.Any{}
	for _, r := range m.Resources {
		all[r.Name] = r.Resource
	}
	return all
}

func transformed(t *testing.T, raw map[string]*anypb.Any) View {
	t.Helper()
	tr, err := NewTransformer(Ports{Port: handOffPort})
	if err != nil {
		t.Fatal(err)
	}
	v, err := tr.Transform(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What stock Envoy rejects in the recorded listeners is known by count.
func TestRecordedChangesAreCounted(t *testing.T) {
	v := transformed(t, recorded(t))
	got := map[string]int{}
	for _, c := range v.Changes {
		got[c.Kind] = c.Count
		if c.Why == "" {
			t.Errorf("%s: no reason is given", c.Kind)
		}
	}
	want := map[string]int{
		"drop-peer-metadata": 8, "drop-stats": 10, "drop-metadata-exchange": 3, "drop-wasm": 0, "drop-wasm-network": 0, "hashable-string": 4,
		"route-by-name": 6, "hand-off-listener": 1, "hand-off-without-http-inspector": 1, "hand-off-local-address": 2,
		"hand-off-own-port": 1, "hand-off-needs-identity": 1, "hand-off-identity-by-address": 0,
		"hand-off-proxy-v2-listener": 0, "hand-off-plain-to-workloads": 0,
	}
	if !maps.Equal(got, want) {
		t.Errorf("changes: %v, want %v", got, want)
	}
}

func TestNothingOfIstiosOwnIsLeft(t *testing.T) {
	v := transformed(t, recorded(t))
	for name, body := range v.Listeners {
		for _, alien := range []string{"io.istio.http.peer_metadata", "stats.PluginConfig", "MetadataExchange", "istio.hashable_string"} {
			if bytes.Contains(body.Any.Value, []byte(alien)) {
				t.Errorf("listener %s still has %s", name, alien)
			}
		}
	}
	// The control: they are there in what came.
	if !bytes.Contains(recorded(t)[mainInternal].Value, []byte("io.istio.http.peer_metadata")) {
		t.Error("the recorded listener has nothing that must go")
	}
}

func TestWhatNeedsNoChangePassesByteForByte(t *testing.T) {
	raw := recorded(t)
	v := transformed(t, raw)
	for _, name := range []string{"connect_originate", "outer_connect_originate"} {
		if !bytes.Equal(v.Listeners[name].Any.Value, raw[name].Value) {
			t.Errorf("listener %s was changed", name)
		}
	}
}

func TestEqualListenersGiveEqualBytes(t *testing.T) {
	first, second := transformed(t, recorded(t)), transformed(t, recorded(t))
	for name, body := range first.Listeners {
		if second.Listeners[name].Version != body.Version {
			t.Errorf("listener %s has another version the second time", name)
		}
	}
	if len(first.Routes) != 6 || !maps.EqualFunc(first.Routes, second.Routes, func(a, b ads.Body) bool { return a.Version == b.Version }) {
		t.Errorf("routes %v, then %v", first.Routes, second.Routes)
	}
}

func TestHandOffIsACopyOfMainInternal(t *testing.T) {
	v := transformed(t, recorded(t))
	var of listener.Listener
	if err := v.Listeners[mainInternal].Any.UnmarshalTo(&of); err != nil {
		t.Fatal(err)
	}
	l := v.HandOff
	if l.Address.GetSocketAddress().GetPortValue() != handOffPort || len(l.AdditionalAddresses) != 1 || l.GetInternalListener() != nil {
		t.Errorf("addresses %v %v, internal %v", l.Address, l.AdditionalAddresses, l.GetInternalListener())
	}
	if !slices.Equal(chainNames(l), chainNames(&of)) {
		t.Errorf("chains %v, want those of main_internal %v", chainNames(l), chainNames(&of))
	}
	if names := filterNames(l); !slices.Contains(names, "envoy.filters.listener.original_dst") {
		t.Errorf("listener filters %v lack original_dst", names)
	}
	if !slices.Equal(v.Refused, []string{"inbound-vip|80|http|fortio.demo.svc.cluster.local"}) {
		t.Errorf("chains that need a principal: %v", v.Refused)
	}
	for _, c := range l.FilterChains {
		if !slices.Contains(v.Refused, c.Name) {
			continue
		}
		if len(c.Filters) != 1 || c.Filters[0].Name != "envoy.filters.network.tcp_proxy" {
			t.Errorf("chain %s refuses by %v", c.Name, c.Filters)
		}
	}
}

// A weight is in the routes, not in a chain.
func TestWeightChangesNoListener(t *testing.T) {
	raw := recorded(t)
	before := transformed(t, raw)
	after := transformed(t, reweighed(t, raw, 50))
	for name, body := range before.Listeners {
		if after.Listeners[name].Version != body.Version {
			t.Errorf("listener %s changed with a weight", name)
		}
	}
	const name = "inbound-vip|80|http|echo.demo.svc.cluster.local"
	if before.Routes[name].Version == after.Routes[name].Version {
		t.Error("the routes did not change with the weight")
	}
}

// reweighed gives the first cluster of the echo route another weight.
func reweighed(t *testing.T, raw map[string]*anypb.Any, weight uint32) map[string]*anypb.Any {
	t.Helper()
	var l listener.Listener
	if err := raw[mainInternal].UnmarshalTo(&l); err != nil {
		t.Fatal(err)
	}
	for _, c := range l.FilterChains {
		if !strings.HasSuffix(c.Name, "http|echo.demo.svc.cluster.local") {
			continue
		}
		var h hcm.HttpConnectionManager
		if err := c.Filters[0].GetTypedConfig().UnmarshalTo(&h); err != nil {
			t.Fatal(err)
		}
		shares := h.GetRouteConfig().VirtualHosts[0].Routes[0].GetRoute().GetWeightedClusters().Clusters
		shares[0].Weight.Value, shares[1].Weight.Value = weight, 100-weight
		c.Filters[0].ConfigType = &listener.Filter_TypedConfig{TypedConfig: packed(t, &h)}
	}
	next := maps.Clone(raw)
	next[mainInternal] = packed(t, &l)
	return next
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func chainNames(l *listener.Listener) []string {
	var all []string
	for _, c := range l.FilterChains {
		all = append(all, c.Name)
	}
	return all
}

func filterNames(l *listener.Listener) []string {
	var all []string
	for _, f := range l.ListenerFilters {
		all = append(all, f.Name)
	}
	return all
}

// without is the recorded main_internal without a chain and without the way to it, as
// istiod sends it when a service has left.
func without(t *testing.T, raw map[string]*anypb.Any, chain string) map[string]*anypb.Any {
	t.Helper()
	var l listener.Listener
	if err := raw[mainInternal].UnmarshalTo(&l); err != nil {
		t.Fatal(err)
	}
	l.FilterChains = slices.DeleteFunc(l.FilterChains, func(c *listener.FilterChain) bool { return c.Name == chain })
	custom := addresses(l.FilterChainMatcher).GetMatcherTree().GetCustomMatch()
	var ranges xds.IPMatcher
	if err := custom.TypedConfig.UnmarshalTo(&ranges); err != nil {
		t.Fatal(err)
	}
	for _, r := range ranges.RangeMatchers {
		maps.DeleteFunc(r.GetOnMatch().GetMatcher().GetMatcherTree().GetExactMatchMap().GetMap(), func(_ string, on *xds.Matcher_OnMatch) bool {
			return leadsTo(on, chain)
		})
	}
	ranges.RangeMatchers = slices.DeleteFunc(ranges.RangeMatchers, func(r *xds.IPMatcher_IPRangeMatcher) bool {
		ports := r.GetOnMatch().GetMatcher().GetMatcherTree().GetExactMatchMap()
		return ports != nil && len(ports.Map) == 0
	})
	custom.TypedConfig = packed(t, &ranges)
	next := maps.Clone(raw)
	next[mainInternal] = packed(t, &l)
	return next
}

func leadsTo(on *xds.Matcher_OnMatch, chain string) bool {
	name := new(wrapperspb.StringValue)
	return on.GetAction().GetTypedConfig().UnmarshalTo(name) == nil && name.Value == chain
}

// ways counts the ways of a listener to a chain.
func ways(t *testing.T, l *listener.Listener, chain string) int {
	t.Helper()
	n := 0
	if err := eachLeaf(proto.Clone(l.FilterChainMatcher).(*xds.Matcher), func(on *xds.Matcher_OnMatch) error {
		if leadsTo(on, chain) {
			n++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

const echoChain = "inbound-vip|80|http|echo.demo.svc.cluster.local"

// A WasmPlugin is left out and counted, in HTTP and for connections.
func TestWasmIsLeftOut(t *testing.T) {
	raw := recorded(t)
	var l listener.Listener
	if err := raw[mainInternal].UnmarshalTo(&l); err != nil {
		t.Fatal(err)
	}
	const wasm = "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm"
	plugin := &listener.Filter{Name: "demo.plugin", ConfigType: &listener.Filter_ConfigDiscovery{
		ConfigDiscovery: &core.ExtensionConfigSource{TypeUrls: []string{wasm}},
	}}
	l.FilterChains[0].Filters = append([]*listener.Filter{plugin}, l.FilterChains[0].Filters...)
	raw[mainInternal] = packed(t, &l)
	v := transformed(t, raw)
	if v.counts["drop-wasm-network"] != 1 {
		t.Errorf("counted %v", v.counts)
	}
	for name, body := range v.Listeners {
		if bytes.Contains(body.Any.Value, []byte(wasm)) {
			t.Errorf("listener %s has it yet", name)
		}
	}
}

// What has left stays reachable in the joined copy, by address and port.
func TestJoinKeepsWhatHasLeft(t *testing.T) {
	raw := recorded(t)
	before := transformed(t, raw)
	after := transformed(t, without(t, raw, echoChain))
	if !chainsGone(before.HandOff, after.HandOff) || ways(t, after.HandOff, echoChain) != 0 || ways(t, before.HandOff, echoChain) == 0 {
		t.Fatal("nothing has left")
	}
	joined := join(after.HandOff, before.HandOff)
	if !hasChain(joined, echoChain) || ways(t, joined, echoChain) != ways(t, before.HandOff, echoChain) {
		t.Errorf("chains %v, %d ways to %s, want %d", chainNames(joined), ways(t, joined, echoChain), echoChain, ways(t, before.HandOff, echoChain))
	}
	if hasChain(after.HandOff, echoChain) {
		t.Error("join has changed its argument")
	}
}

// What has left goes when its time is over, also while istiod sends something all the
// time, and each thing at its own time.
func TestWhatHasLeftGoesInTime(t *testing.T) {
	r, err := New(Config{Ports: Ports{Port: handOffPort}, Hold: 300 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer func() { cancel(); r.trim(); r.wg.Wait() }()
	take := func(raw map[string]*anypb.Any) {
		m := &discovery.DeltaDiscoveryResponse{TypeUrl: ads.Listeners}
		for name, body := range raw {
			m.Resources = append(m.Resources, &discovery.Resource{Name: name, Resource: body})
		}
		if err := r.take(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	copies := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.leaving.copies)
	}
	const other = "inbound-vip|80|http|echo-v1.demo.svc.cluster.local"
	one := without(t, recorded(t), echoChain)
	take(recorded(t))
	take(one)
	take(without(t, one, other))
	if n := copies(); n != 2 {
		t.Fatalf("%d things have left, want 2", n)
	}
	r.mu.Lock()
	served := r.leaving.listeners(r.view.Listeners, r.view.HandOff, r.config.Ports)
	var l listener.Listener
	err = served[r.view.HandOff.Name].Any.UnmarshalTo(&l)
	r.mu.Unlock()
	if err != nil || ways(t, &l, echoChain) == 0 || ways(t, &l, other) == 0 {
		t.Errorf("what has left is not reachable: %v, %v", chainNames(&l), err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for copies() > 0 {
		select {
		case <-tick.C: // an endpoint changes
			if err := r.take(ctx, &discovery.DeltaDiscoveryResponse{TypeUrl: ads.Endpoints}); err != nil {
				t.Fatal(err)
			}
		case <-deadline:
			t.Fatalf("%d of what has left is still there", copies())
		}
	}
}
