package netsim

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/internal/scenario"
)

func TestAddressPlan(t *testing.T) {
	// The largest cluster that is allowed has no address twice.
	topology := scenario.Topology{Nodes: make([]scenario.Node, MaxNodes)}
	for i := range topology.Nodes {
		n := &topology.Nodes[i]
		n.Name = fmt.Sprintf("n%d", i)
		pods := 10
		if i == 0 {
			pods = MaxPodsPerNode
		}
		for k := range pods {
			n.Pods = append(n.Pods, scenario.Pod{Name: fmt.Sprintf("p%d-%d", i, k)})
		}
	}
	plan, err := planAddrs(topology, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range topology.Nodes {
		for _, p := range n.Pods {
			a := plan[p.Name]
			if !nodePrefix4(i+1).Contains(a.IPv4) || !nodePrefix6(i+1).Contains(a.IPv6) {
				t.Fatalf("pod %s of node %d has %v, outside its node's prefixes", p.Name, i+1, a)
			}
			if last := a.IPv4.As4()[3]; last == 0 || last == 255 {
				t.Fatalf("pod %s has %s", p.Name, a.IPv4)
			}
		}
	}
}

func TestDeclaredAddresses(t *testing.T) {
	topology := twoNodes(scenario.NoMesh)
	for want, declared := range map[string]map[string]Addresses{
		"pod v1: 10.1.1.1 belongs to pod client":             {"v1": {IPv4: netip.MustParseAddr("10.1.1.1")}},
		"pod v1: 10.1.0.1 belongs to node a":                 {"v1": {IPv4: netip.MustParseAddr("10.1.0.1")}},
		"pod v1: 10.96.7.7 is in the range of services":      {"v1": {IPv4: netip.MustParseAddr("10.96.7.7")}},
		"pod v1: fe80::5 is not a unicast address":           {"v1": {IPv6: netip.MustParseAddr("fe80::5")}},
		"pod v1: fd00::1 and fd00:10:0:1::102 are not":       {"v1": {IPv4: netip.MustParseAddr("fd00::1")}},
		"addresses declared for pod v9, which is not in the": {"v9": {}},
	} {
		if _, err := planAddrs(topology, declared); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestVirtualAddresses(t *testing.T) {
	v, err := newVIPs(map[string][]netip.Addr{"kept": {netip.MustParseAddr("10.96.0.2")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		service string
		family  scenario.Family
		addrs   string
	}{
		{"one", scenario.IPv4, "[10.96.0.1]"},
		{"two", scenario.Dual, "[10.96.0.3 fd96::1]"}, // 10.96.0.2 is declared
		{"one", scenario.IPv4, "[10.96.0.1]"},
		{"kept", scenario.Dual, "[10.96.0.2 fd96::2]"},
		{"six", scenario.IPv6, "[fd96::3]"},
		{"plain", "", "[10.96.0.4]"},
	} {
		got, err := v.of(want.service, want.family)
		if err != nil || fmt.Sprint(got.list()) != want.addrs {
			t.Errorf("service %s has %v, %v; want %s", want.service, got.list(), err, want.addrs)
		}
	}
	if _, err := newVIPs(map[string][]netip.Addr{
		"s": {netip.MustParseAddr("10.96.0.2"), netip.MustParseAddr("10.96.0.3")},
	}, nil); err == nil || !strings.Contains(err.Error(), "are of one family") {
		t.Errorf("two addresses of one family: %v", err)
	}
}

func TestDeclaredPodIsReachedAcrossNodes(t *testing.T) {
	a := Addresses{IPv4: netip.MustParseAddr("192.168.77.5"), IPv6: netip.MustParseAddr("fd77::5")}
	c := mustOpen(t, Config{Pods: map[string]Addresses{"v2": a}}, twoNodes(scenario.NoMesh))
	for _, f := range []scenario.Family{scenario.IPv4, scenario.IPv6} {
		conns := dial(t, c, "client", scenario.Target{Pod: "v2", Port: 8080, Family: f}, 5)
		wantTally(t, conns, "v2", 5)
		if got := conns[0].Peer.Addr(); got != a.of(f) {
			t.Errorf("v2 was reached as %s, want %s", got, a.of(f))
		}
	}
}

func TestBadTopologies(t *testing.T) {
	pod := func(names ...string) (n scenario.Node) {
		n.Name = "a"
		for _, p := range names {
			n.Pods = append(n.Pods, scenario.Pod{Name: p})
		}
		return n
	}
	for want, topology := range map[string]scenario.Topology{
		"no nodes":                     {},
		"33 nodes, at most 32":         {Nodes: make([]scenario.Node, 33)},
		`mesh "istio"`:                 {Mesh: "istio", Nodes: []scenario.Node{pod()}},
		"node a: declared twice":       {Nodes: []scenario.Node{pod(), pod()}},
		"pod p: declared twice":        {Nodes: []scenario.Node{pod("p", "p")}},
		`pod "../p"`:                   {Nodes: []scenario.Node{pod("../p")}},
		`pod "_node"`:                  {Nodes: []scenario.Node{pod("_node")}},
		"16001 pods, at most 16000":    {Nodes: []scenario.Node{pod(make([]string, 16001)...)}},
		"port 80 is zero or declared ": {Nodes: []scenario.Node{{Name: "a", Pods: []scenario.Pod{{Name: "p", Serve: []uint16{80, 80}}}}}},
	} {
		if _, err := newCluster(Config{ID: "x"}, topology); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
