package kind

import (
	"maps"
	"net/netip"
	"testing"

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
