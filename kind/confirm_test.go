package kind

import (
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/scenario/kube"
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
	// Whichever is declared first.
	if got := c.targets(scenario.Objects{}, s, port, at, "b"); !maps.Equal(got, targets{two: 1}) {
		t.Errorf("of the other node: %v", got)
	}
}

// TestTargetsOfAFamily: a pod that is declared with one family is known by that alone,
// whatever the cluster has given it.
func TestTargetsOfAFamily(t *testing.T) {
	four, six := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:10:244::2")
	other4, other6 := netip.MustParseAddr("10.244.2.3"), netip.MustParseAddr("fd00:10:244::3")
	c := &Cluster{pods: map[string]*pod{
		"v1": {addrs: []netip.Addr{four, six}, spec: scenario.Pod{Family: scenario.IPv4}},
		"v2": {addrs: []netip.Addr{four, six}, spec: scenario.Pod{Family: scenario.IPv6}},
		"v3": {addrs: []netip.Addr{other4, other6}},
	}}
	s := scenario.Service{Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: 1}, {Pod: "v2", Weight: 1}, {Pod: "v3", Weight: 1}}}
	port := scenario.Port{Port: 80, Target: 8080}
	for at, want := range map[string]targets{
		"10.96.64.1": {netip.AddrPortFrom(four, 8080): .5, netip.AddrPortFrom(other4, 8080): .5},
		"fd00:96::1": {netip.AddrPortFrom(six, 8080): .5, netip.AddrPortFrom(other6, 8080): .5},
	} {
		if got := c.targets(scenario.Objects{}, s, port, netip.MustParseAddr(at), "a"); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", at, got, want)
		}
	}
	s.Endpoints = s.Endpoints[1:2]
	if got := c.targets(scenario.Objects{}, s, port, netip.MustParseAddr("10.96.64.1"), "a"); len(got) > 0 {
		t.Errorf("the other family alone: %v", got)
	}
	for _, p := range []struct {
		spec  scenario.Pod
		addrs []netip.Addr
		want  kube.Pod
	}{
		{c.pods["v1"].spec, []netip.Addr{four, six}, kube.Pod{Addresses: []netip.Addr{four}, Partly: true}},
		{c.pods["v1"].spec, []netip.Addr{four}, kube.Pod{Addresses: []netip.Addr{four}}},
		{c.pods["v2"].spec, []netip.Addr{four}, kube.Pod{Addresses: []netip.Addr{}, Partly: true}},
		{scenario.Pod{Family: scenario.Dual}, []netip.Addr{four, six}, kube.Pod{Addresses: []netip.Addr{four, six}}},
	} {
		if got := kubePod(p.spec, p.addrs); !reflect.DeepEqual(got, p.want) {
			t.Errorf("%s of %v: %+v, want %+v", p.spec.Family, p.addrs, got, p.want)
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

// TestReplicasOfANode: those of the caller's zone where there are any, else of its region,
// else all; all where nodes do not say where they stand.
func TestReplicasOfANode(t *testing.T) {
	w1, w2, w3 := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.2.2"), netip.MustParseAddr("10.244.3.2")
	c := &Cluster{
		pods: map[string]*pod{
			"w1": {node: "a", addrs: []netip.Addr{w1}}, "w2": {node: "b", addrs: []netip.Addr{w2}}, "w3": {node: "c", addrs: []netip.Addr{w3}},
		},
		gateways: gateways{
			"all": {pods: []string{"w1", "w2", "w3"}}, "pair": {pods: []string{"w1", "w2"}}, "proxied": {pods: []string{"w1"}}, "nobody": {},
		},
	}
	o := scenario.Objects{Waypoints: []scenario.Waypoint{{Name: "proxied", Codec: scenario.ProxyV2}}}
	one, two, three := netip.AddrPortFrom(w1, 15029), netip.AddrPortFrom(w2, 15029), netip.AddrPortFrom(w3, 15029)
	zoned := map[string]site{"a": {"r1", "a"}, "b": {"r1", "b"}, "c": {"r1", "b"}, "d": {"r1", "d"}, "e": {"r2", "a"}}
	regions := map[string]site{"a": {"r1", "z"}, "b": {"r2", "z"}, "c": {"r2", "y"}, "d": {"r1", "x"}, "e": {}}
	const third = 1.0 / 3
	for _, when := range []struct {
		sites          map[string]site
		node, waypoint string
		want           targets
	}{
		{zoned, "a", "pair", targets{one: 1}},
		{zoned, "b", "pair", targets{two: 1}},
		{zoned, "b", "all", targets{two: .5, three: .5}},
		{zoned, "d", "all", targets{one: third, two: third, three: third}},
		{zoned, "e", "pair", targets{one: .5, two: .5}}, // a zone of the same name, in another region
		{zoned, "b", "proxied", targets{netip.AddrPortFrom(w1, 15039): 1}},
		{zoned, "a", "nobody", targets{}},
		{regions, "a", "all", targets{one: 1}},
		{regions, "d", "all", targets{one: 1}}, // its region alone
		{regions, "b", "all", targets{two: 1}},
		{regions, "e", "all", targets{one: third, two: third, three: third}},
		{map[string]site{}, "a", "pair", targets{one: .5, two: .5}},
	} {
		c.sites = when.sites
		if got := c.handOffs(o, when.waypoint, netip.MustParseAddr("10.96.64.1"), when.node); !maps.Equal(got, when.want) {
			t.Errorf("node %s, waypoint %s: %v, want %v", when.node, when.waypoint, got, when.want)
		}
	}
}

// TestSitesOfThisCluster: the nodes of cluster.yaml stand where the scenarios of a cluster
// count on: its workers in two zones of one region, its control plane in one of these.
func TestSitesOfThisCluster(t *testing.T) {
	text, err := os.ReadFile("cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		Nodes []struct {
			Role   string
			Labels map[string]string
		}
	}
	if err := yaml.Unmarshal(text, &made); err != nil {
		t.Fatal(err)
	}
	at := map[string][]site{}
	for _, n := range made.Nodes {
		at[n.Role] = append(at[n.Role], siteOf(corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: n.Labels}}))
	}
	workers, planes := at["worker"], at["control-plane"]
	if len(workers) != 2 || workers[0].shared(workers[1]) != 1 || len(planes) != 1 || !slices.Contains(workers, planes[0]) {
		t.Errorf("the workers stand at %+v, the control plane at %+v", workers, planes)
	}
}

// TestWhereAFrontendLeads: a waypoint's replicas, or the endpoints, and never one for the
// other.
func TestWhereAFrontendLeads(t *testing.T) {
	at, other := netip.MustParseAddrPort("10.244.1.2:15029"), netip.MustParseAddrPort("10.244.2.2:15029")
	have := api.Frontend{Exit: "redirect-waypoint", Targets: []api.Target{{Address: at, Share: 1}}}
	both := api.Frontend{Exit: "redirect-waypoint", Targets: []api.Target{{Address: at, Share: .5}, {Address: other, Share: .5}}}
	refuses := api.Frontend{Exit: "refuse-no-waypoint"}
	for _, c := range []struct {
		want way
		have api.Frontend
		same bool
	}{
		{way{targets{at: 1}, true}, have, true},
		{way{targets{at: .5, other: .5}, true}, both, true},
		{way{targets{at: .5, other: .5}, true}, have, false}, // the other one is never used
		{way{targets{at: 1}, true}, both, false},             // it is too far
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
