package kind

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// TestTargetsOfANode: with a policy of the node the caller's own endpoints alone are
// wanted, without one all are, by their weights.
func TestTargetsOfANode(t *testing.T) {
	v1, v2 := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.2.2")
	c := &Cluster{pods: map[string]*pod{"v1": {node: "a", addrs: []netip.Addr{v1}}, "v2": {node: "b", addrs: []netip.Addr{v2}}}}
	s := scenario.Service{Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: 1}, {Pod: "v2", Weight: 3}}}
	port, o := scenario.Port{Port: 80, Target: 8080}, scenario.Objects{}
	at := netip.MustParseAddr("10.96.64.1")
	one, two := netip.AddrPortFrom(v1, 8080), netip.AddrPortFrom(v2, 8080)
	for _, node := range []string{"a", "b", "c"} {
		if got := c.targets(o, s, port, at, node); !maps.Equal(got, targets{one: .25, two: .75}) {
			t.Errorf("node %s, without a policy: %v", node, got)
		}
	}
	s.Balance = scenario.Balance{Mode: intent.Strict, Prefer: []intent.Scope{intent.ScopeNode}}
	for node, want := range map[string]targets{"a": {one: 1}, "b": {two: 1}, "c": {}} {
		if got := c.targets(o, s, port, at, node); !maps.Equal(got, want) {
			t.Errorf("node %s, by node: %v, want %v", node, got, want)
		}
	}
}

// TestTargetsOfTheOtherNode: where nobody on the caller's own is ready.
func TestTargetsOfTheOtherNode(t *testing.T) {
	v1, v2 := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.2.2")
	c := &Cluster{pods: map[string]*pod{"v1": {node: "a", addrs: []netip.Addr{v1}}, "v2": {node: "b", addrs: []netip.Addr{v2}}}}
	s := scenario.Service{Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: 1}, {Pod: "v2", Weight: 1}}}
	s.Balance = scenario.Balance{Mode: intent.Failover, Prefer: []intent.Scope{intent.ScopeNode}}
	port, at := scenario.Port{Port: 80, Target: 8080}, netip.MustParseAddr("10.96.64.1")
	one, two := netip.AddrPortFrom(v1, 8080), netip.AddrPortFrom(v2, 8080)
	for _, when := range []struct {
		unready []string
		want    targets
	}{{nil, targets{one: 1}}, {[]string{"v1"}, targets{two: 1}}, {[]string{"v2"}, targets{one: 1}}, {[]string{"v1", "v2"}, targets{}}} {
		if got := c.targets(scenario.Objects{Unready: when.unready}, s, port, at, "a"); !maps.Equal(got, when.want) {
			t.Errorf("not ready %v: %v, want %v", when.unready, got, when.want)
		}
	}
}

// TestTargetsOfPorts: a pod that has no port of the name, or is not ready, is left out.
func TestTargetsOfPorts(t *testing.T) {
	v1, v2, v3 := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.2.2"), netip.MustParseAddr("10.244.2.3")
	c := &Cluster{pods: map[string]*pod{
		"v1": {addrs: []netip.Addr{v1}, spec: scenario.Pod{Ports: map[string]uint16{"web": 8080}}},
		"v2": {addrs: []netip.Addr{v2}, spec: scenario.Pod{Ports: map[string]uint16{"web": 9090}}},
		"v3": {addrs: []netip.Addr{v3}},
	}}
	s := scenario.Service{Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: 1}, {Pod: "v2", Weight: 1}, {Pod: "v3", Weight: 1}}}
	port, at := scenario.Port{Port: 80, TargetName: "web"}, netip.MustParseAddr("10.96.64.1")
	one, two := netip.AddrPortFrom(v1, 8080), netip.AddrPortFrom(v2, 9090)
	if got := c.targets(scenario.Objects{}, s, port, at, "a"); !maps.Equal(got, targets{one: .5, two: .5}) {
		t.Errorf("by name: %v", got)
	}
	o := scenario.Objects{Unready: []string{"v1"}}
	if got := c.targets(o, s, port, at, "a"); !maps.Equal(got, targets{two: 1}) {
		t.Errorf("v1 is not ready: %v", got)
	}
	s.PublishNotReady = true
	if got := c.targets(o, s, port, at, "a"); !maps.Equal(got, targets{one: .5, two: .5}) {
		t.Errorf("v1 is not ready, and published: %v", got)
	}
	s.Endpoints[1].Ports = map[uint16]uint16{80: 7070}
	if got := c.targets(scenario.Objects{}, s, port, at, "a"); got[netip.AddrPortFrom(v2, 7070)] != .5 {
		t.Errorf("v2 has a number of its own: %v", got)
	}
}

// TestWhereAFrontendLeads: a waypoint's replicas, or the endpoints, and never one for the
// other.
func TestWhereAFrontendLeads(t *testing.T) {
	at, other := netip.MustParseAddrPort("10.244.1.2:15029"), netip.MustParseAddrPort("10.244.2.2:15029")
	have := api.Frontend{Exit: "redirect-waypoint", Targets: []api.Target{{Address: at, Share: 1}}}
	refuses := api.Frontend{Exit: "refuse-no-waypoint"}
	for _, c := range []struct {
		want way
		have api.Frontend
		same bool
	}{
		{way{targets{at: 1}, true}, have, true},
		{way{targets{at: .5, other: .5}, true}, have, true}, // the near one
		{way{targets{other: 1}, true}, have, false},
		{way{targets{at: .5, other: .5}, false}, api.Frontend{Exit: "redirect", Targets: have.Targets}, false},
		{way{targets{at: 1}, false}, have, false},
		{way{targets{}, true}, have, false},
		{way{targets{}, true}, refuses, true},
		{way{targets{at: 1}, true}, refuses, false},
		{way{targets{}, true}, api.Frontend{Exit: "refuse-no-endpoint"}, false},
	} {
		if diff := differ(c.want, c.have); (diff == "") != c.same {
			t.Errorf("%+v and %+v: %q", c.want, c.have, diff)
		}
	}
}
