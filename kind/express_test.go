package kind

import (
	"errors"
	"slices"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// elsewhere are the named scenarios that cannot be shown on a cluster. A scenario that is added
// to them, or taken out, is so on purpose: docs/scenarios.md says why.
var elsewhere = []string{
	"addresses/several/25-25-50",
	"agent/churn-and-kills/100000",
	"baseline/dnat-udp/90-10",
	"baseline/dnat/90-10",
	"baseline/no-mesh/500",
	"locality/failover/levels",
	"locality/strict/scopes",
	"udp/churn-and-kills/100000",
	"udp/undeclared-port/500",
}

func TestWhichScenariosAreNetsimsAlone(t *testing.T) {
	var got []string
	for _, s := range scenario.All() {
		err := Expressible(s)
		if err != nil && !errors.Is(err, scenario.ErrNotExpressible) {
			t.Errorf("%s: %v", s.Name, err)
		}
		if err != nil {
			t.Logf("%s: %v", s.Name, err)
			got = append(got, s.Name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, elsewhere) {
		t.Errorf("on no cluster can be shown %v, want %v", got, elsewhere)
	}
}

// TestWhatCannotBeShown: each of it is refused, and what is beside it is not.
func TestWhatCannotBeShown(t *testing.T) {
	change := func(name string, change func(*scenario.Scenario)) error {
		s := named(t, name)
		change(&s)
		return Expressible(s)
	}
	const plain, outside, l7 = "clusterip/weight/90-10", "managed/bystander/500", "l7/two-replicas/90-10"
	const families, zones = "clusterip/one-family-each/50-50", "locality/failover/zone"
	for what, err := range map[string]error{
		"another mesh":           change(plain, func(s *scenario.Scenario) { s.Topology.Mesh = scenario.NoMesh }),
		"an unknown mesh":        change(plain, func(s *scenario.Scenario) { s.Topology.Mesh = "" }),
		"rules of a node":        change(plain, func(s *scenario.Scenario) { s.Topology.Mesh = scenario.DNAT }),
		"a region alone":         change(plain, func(s *scenario.Scenario) { s.Topology.Nodes[0].Place.Region = "r" }),
		"a subzone":              change(plain, func(s *scenario.Scenario) { s.Topology.Nodes[0].Place.Subzone = "s" }),
		"several addresses":      change(plain, func(s *scenario.Scenario) { s.Topology.Nodes[0].Pods[0].Addresses = 2 }),
		"a client of one family": change(plain, func(s *scenario.Scenario) { s.Topology.Nodes[0].Pods[0].Family = scenario.IPv6 }),
		"one family, asked for itself": change(plain, func(s *scenario.Scenario) {
			s.Topology.Nodes[0].Pods[3].Family = scenario.IPv4
			s.Phases[0].Loads[0].To = scenario.Target{Pod: "v1", Port: 8080, Family: scenario.IPv6}
		}),
		"one family, not ready":              change(families, func(s *scenario.Scenario) { s.Objects.Unready = []string{"v1"} }),
		"outside, an endpoint of one family": change(outside, func(s *scenario.Scenario) { s.Topology.Nodes[0].Pods[3].Family = scenario.IPv4 }),
		"outside, a locality": change(outside, func(s *scenario.Scenario) {
			s.Objects.Services[0].Balance = scenario.Balance{Mode: intent.Strict, Prefer: []intent.Scope{intent.ScopeNode}}
		}),
		"a pod that is recycled": change(plain, func(s *scenario.Scenario) { s.Phases[0].Before = []scenario.Action{scenario.Recycle{Pod: "v1"}} }),
		"an endpoint by name":    change(plain, func(s *scenario.Scenario) { s.Objects.Services[0].Endpoints[0].ByName = true }),
		"a failover to nowhere":  change(plain, func(s *scenario.Scenario) { s.Objects.Services[0].Balance.Mode = intent.Failover }),
		"a failover by zone":     change(zones, func(s *scenario.Scenario) { s.Topology.Nodes[1].Place = scenario.Place{} }),
		"three nodes, by node": change(zones, func(s *scenario.Scenario) {
			s.Objects.Services[0].Balance = named(t, "locality/failover/node").Objects.Services[0].Balance
		}),
		"a waypoint not ready": change(l7, func(s *scenario.Scenario) { s.Objects.Unready = []string{"waypoint"} }),
		"two replicas on one node": change(l7, func(s *scenario.Scenario) {
			s.Topology.Nodes[1].Pods = append(s.Topology.Nodes[1].Pods, scenario.Pod{Name: "w3", Waypoint: true})
			s.Objects.Waypoints[0].Pods = append(s.Objects.Waypoints[0].Pods, "w3")
		}),
		"UDP outside the mesh":        change(outside, func(s *scenario.Scenario) { s.Phases[0].Loads[1].To.Protocol = scenario.UDP }),
		"outside, an undeclared port": change(outside, func(s *scenario.Scenario) { s.Phases[0].Loads[1].To.Port = 81 }),
		"outside, weighed endpoints":  change(outside, func(s *scenario.Scenario) { s.Objects.Services[0].Endpoints[0].Weight = 3 }),
	} {
		if !errors.Is(err, scenario.ErrNotExpressible) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{plain, outside, l7, families, zones} {
		if err := change(name, func(*scenario.Scenario) {}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
