package intent_test

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// A workload that is known by name is there with each address, and its share stays.
func TestSpread(t *testing.T) {
	called := func(w *intent.Workload) *intent.Workload { w.Hostname = "db.example.com"; return w }
	weighing := func(n uint32, w *intent.Workload) *intent.Workload { w.Weight = n; return w }
	for _, c := range []struct {
		name string
		eps  []*intent.Workload
		v6   bool
		want string
	}{
		{"one address", []*intent.Workload{called(pod("a", "10.1.0.1"))}, false, "10.1.0.1×1"},
		{"none of the family", []*intent.Workload{called(pod("a", "10.1.0.1"))}, true, ""},
		{"two addresses", []*intent.Workload{called(pod("a", "10.1.0.1", "fd01::1", "10.1.0.2"))}, false, "10.1.0.1×1 10.1.0.2×1"},
		{"beside a pod", []*intent.Workload{called(pod("a", "10.1.0.1", "10.1.0.2")), pod("b", "10.1.0.3", "10.1.0.4")}, false,
			"10.1.0.1×1 10.1.0.2×1 10.1.0.3×2"},
		{"two names", []*intent.Workload{called(pod("a", "10.1.0.1", "10.1.0.2")), weighing(5, called(pod("b", "10.1.0.3", "10.1.0.4", "10.1.0.5")))}, false,
			"10.1.0.1×3 10.1.0.2×3 10.1.0.3×10 10.1.0.4×10 10.1.0.5×10"},
		{"the largest weight", []*intent.Workload{weighing(1<<32-1, called(pod("a", "10.1.0.1", "10.1.0.2"))), weighing(1<<31, pod("b", "10.1.0.3"))}, false,
			fmt.Sprintf("10.1.0.1×%d 10.1.0.2×%d 10.1.0.3×%d", 1<<31-1, 1<<31-1, 1<<31)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := intent.Service{Endpoints: endpoints(c.eps...)}
			text := ""
			for i, target := range s.Targets(tcp(80, 8080), c.v6, here) {
				if i > 0 {
					text += " "
				}
				text += fmt.Sprintf("%s×%d", target.Addr.Addr(), target.Weight)
			}
			if text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}

// Whatever weights and numbers of addresses: each workload keeps its share.
func TestSpreadKeepsShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*intent.Workload
		total := 0.0
		for i := range rapid.IntRange(1, 6).Draw(t, "workloads") {
			w := pod(fmt.Sprint("w", i))
			w.Weight = rapid.Uint32Range(1, 1000).Draw(t, "weight")
			w.Hostname = rapid.SampledFrom([]string{"", "h"}).Draw(t, "hostname")
			for j := range rapid.IntRange(1, 9).Draw(t, "addresses") {
				w.Addresses = append(w.Addresses, netip.AddrFrom4([4]byte{10, 1, byte(i), byte(j + 1)}))
			}
			all = append(all, w)
			total += float64(w.Weight)
		}
		s := intent.Service{Endpoints: endpoints(all...)}
		sum, shares := 0.0, map[*intent.Workload]float64{}
		for _, target := range s.Targets(tcp(80, 8080), false, here) {
			sum += float64(target.Weight)
			shares[target.Workload] += float64(target.Weight)
		}
		for _, w := range all {
			if got, want := shares[w]/sum, float64(w.Weight)/total; got < want-1e-12 || got > want+1e-12 {
				t.Errorf("%s has a share of %v, want %v", w.Name, got, want)
			}
		}
	})
}

func TestPolicyNames(t *testing.T) {
	w := &intent.Workload{UID: "u", Namespace: "n", Policies: []string{"n/p"}}
	for _, c := range []struct {
		policy intent.Policy
		want   bool
	}{
		{intent.Policy{Name: "p", Namespace: "n"}, true},
		{intent.Policy{Name: "q", Namespace: "n"}, false},
		{intent.Policy{Name: "q", Namespace: "n", Workloads: []string{"u"}}, true},
		{intent.Policy{Name: "q", Namespace: "n", Scope: intent.ScopeNamespace}, true},
		{intent.Policy{Name: "p", Namespace: "m", Scope: intent.ScopeNamespace}, false},
		{intent.Policy{Name: "q", Namespace: "m", Scope: intent.ScopeMesh}, true},
	} {
		if got := c.policy.Names(w); got != c.want {
			t.Errorf("%+v names it: %t", c.policy, got)
		}
	}
	if got := (intent.PolicyCondition{Attribute: "principals", Not: true, Values: []string{"a", "b*"}}).String(); got != "principals not a, b*" {
		t.Error(got)
	}
	for c, port := range map[intent.Codec]uint16{intent.OriginalDst: 15029, intent.ProxyV2: 15039, intent.KmeshTLV: 15019, "": 0} {
		if c.Port() != port {
			t.Errorf("port of %q: %d", c, c.Port())
		}
	}
}
