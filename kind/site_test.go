package kind

import (
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// TestChoose: nodes with places get those of the cluster that stand to each other so,
// whatever their names; nodes without get any that is left.
func TestChoose(t *testing.T) {
	at := func(region, zone string) scenario.Place { return scenario.Place{Region: region, Zone: zone} }
	three := map[string]site{"n1": {"r", "a"}, "n2": {"r", "b"}, "n3": {"r", "a"}}
	for what, c := range map[string]struct {
		places []scenario.Place
		sites  map[string]site
		want   []string
	}{
		"no nodes":                 {nil, three, nil},
		"none is told":             {[]scenario.Place{{}, {}}, three, []string{"n1", "n2"}},
		"two zones":                {[]scenario.Place{at("x", "1"), at("x", "2")}, three, []string{"n1", "n2"}},
		"one zone":                 {[]scenario.Place{at("x", "1"), at("x", "1")}, three, []string{"n1", "n3"}},
		"the first cannot be kept": {[]scenario.Place{at("x", "1"), at("x", "2"), at("x", "2")}, three, []string{"n2", "n1", "n3"}},
		"one is not told":          {[]scenario.Place{{}, at("x", "1"), at("x", "2")}, three, []string{"n3", "n1", "n2"}},
		"another region":           {[]scenario.Place{at("x", "1"), at("y", "1")}, three, nil},
		"three zones of two":       {[]scenario.Place{at("x", "1"), at("x", "2"), at("x", "3")}, three, nil},
		"no labels":                {[]scenario.Place{at("x", "1"), at("x", "2")}, map[string]site{"n1": {}, "n2": {}}, nil},
	} {
		var nodes []scenario.Node
		for i, p := range c.places {
			nodes = append(nodes, scenario.Node{Name: string(rune('a' + i)), Place: p})
		}
		names, chosen := []string{"n1", "n2", "n3"}[:len(c.sites)], map[string]string{}
		is := choose(nodes, names, c.sites, chosen)
		var got []string
		for _, n := range nodes {
			if is {
				got = append(got, chosen[n.Name])
			}
		}
		if is != (len(c.want) == len(nodes)) || !slices.Equal(got, c.want) {
			t.Errorf("%s: %t, %v, want %v", what, is, got, c.want)
		}
	}
}

// TestChooseEndsSoon: what cannot be is found out whatever is beside it.
func TestChooseEndsSoon(t *testing.T) {
	var names []string
	sites := map[string]site{}
	for i := range 60 {
		names = append(names, strconv.Itoa(i))
		sites[names[i]] = site{"r", "z"}
	}
	nodes := []scenario.Node{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}, {Name: "e"}, {Name: "f"}}
	nodes[4].Place, nodes[5].Place = scenario.Place{Region: "r", Zone: "1"}, scenario.Place{Region: "r", Zone: "2"}
	if choose(nodes, names, sites, map[string]string{}) {
		t.Error("one zone is taken for two")
	}
}

// TestCandidates: a control plane comes last, and what keeps pods off for another reason
// not at all.
func TestCandidates(t *testing.T) {
	node := func(name string, taints ...corev1.Taint) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	plane := corev1.Taint{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	got := candidates([]corev1.Node{
		node("a", plane), node("c"), node("d", cordon), node("e", plane, cordon),
		node("f", corev1.Taint{Key: "any", Effect: corev1.TaintEffectNoExecute}),
		node("b", corev1.Taint{Key: "any", Effect: corev1.TaintEffectPreferNoSchedule}),
	})
	if want := []string{"b", "c", "a"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestRank: the node counts where it is asked for, the zone and the region else, and
// nothing without a policy.
func TestRank(t *testing.T) {
	c := &Cluster{sites: map[string]site{"a": {"r", "1"}, "b": {"r", "1"}, "c": {"r", "2"}, "d": {"s", "1"}}}
	zone := scenario.Balance{Mode: intent.Failover, Prefer: []intent.Scope{intent.ScopeNetwork, intent.ScopeRegion, intent.ScopeZone}}
	node := scenario.Balance{Mode: intent.Failover, Prefer: append(slices.Clip(zone.Prefer), intent.ScopeSubzone, intent.ScopeNode)}
	for endpoint, want := range map[string][3]int{"a": {0, 2, 3}, "b": {0, 2, 2}, "c": {0, 1, 1}, "d": {0, 0, 0}} {
		got := [3]int{c.rank(scenario.Balance{}, "a", endpoint), c.rank(zone, "a", endpoint), c.rank(node, "a", endpoint)}
		if got != want {
			t.Errorf("an endpoint on %s: %v, want %v", endpoint, got, want)
		}
	}
}
