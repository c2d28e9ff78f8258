package kind

import (
	"slices"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// TestPlaced: nodes with places get those of the cluster that stand to each other so,
// whatever their names; nodes without get any.
func TestPlaced(t *testing.T) {
	at := func(region, zone string) scenario.Place { return scenario.Place{Region: region, Zone: zone} }
	three := map[string]site{"n1": {"r", "a"}, "n2": {"r", "b"}, "n3": {"r", "a"}}
	for what, c := range map[string]struct {
		places []scenario.Place
		sites  map[string]site
		want   []string
	}{
		"none is told":             {[]scenario.Place{{}, {}}, three, []string{"n1", "n2"}},
		"two zones":                {[]scenario.Place{at("x", "1"), at("x", "2")}, three, []string{"n1", "n2"}},
		"one zone":                 {[]scenario.Place{at("x", "1"), at("x", "1")}, three, []string{"n1", "n3"}},
		"the first cannot be kept": {[]scenario.Place{at("x", "1"), at("x", "2"), at("x", "2")}, three, []string{"n2", "n1", "n3"}},
		"one is not told":          {[]scenario.Place{at("x", "1"), {}, at("x", "1")}, three, []string{"n1", "n2", "n3"}},
		"another region":           {[]scenario.Place{at("x", "1"), at("y", "1")}, three, nil},
		"three zones of two":       {[]scenario.Place{at("x", "1"), at("x", "2"), at("x", "3")}, three, nil},
		"no labels":                {[]scenario.Place{at("x", "1"), at("x", "2")}, map[string]site{"n1": {}, "n2": {}}, nil},
	} {
		var nodes []scenario.Node
		for _, p := range c.places {
			nodes = append(nodes, scenario.Node{Place: p})
		}
		names := []string{"n1", "n2", "n3"}[:len(c.sites)]
		if got := placed(nodes, nil, names, c.sites); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
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
