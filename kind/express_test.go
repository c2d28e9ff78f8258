package kind

import (
	"errors"
	"slices"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// elsewhere are the named scenarios that no cluster can have. A scenario that is added
// to them, or taken out, is so on purpose: docs/scenarios.md says why.
var elsewhere = []string{
	"addresses/several/25-25-50",
	"agent/churn-and-kills/100000",
	"baseline/dnat-udp/90-10",
	"baseline/dnat/90-10",
	"baseline/no-mesh/500",
	"clusterip/one-family-each/50-50",
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
		t.Errorf("no cluster can have %v, want %v", got, elsewhere)
	}
}

// TestWhatNoClusterCanHave: each of it is refused, and what is beside it is not.
func TestWhatNoClusterCanHave(t *testing.T) {
	change := func(name string, change func(*scenario.Scenario)) error {
		s := named(t, name)
		change(&s)
		return Expressible(s)
	}
	const plain, outside, l7 = "clusterip/weight/90-10", "managed/bystander/500", "l7/two-replicas/90-10"
	for what, err := range map[string]error{
		"another mesh":           change(plain, func(s *scenario.Scenario) { s.Topology.Mesh = scenario.NoMesh }),
		"a place":                change(plain, func(s *scenario.Scenario) { s.Topology.Nodes[0].Place.Zone = "z" }),
		"several addresses":      change(plain, func(s *scenario.Scenario) { s.Topology.Nodes[0].Pods[0].Addresses = 2 }),
		"a pod of one family":    change(plain, func(s *scenario.Scenario) { s.Topology.Nodes[0].Pods[0].Family = scenario.IPv6 }),
		"a pod that is recycled": change(plain, func(s *scenario.Scenario) { s.Phases[0].Before = []scenario.Action{scenario.Recycle{Pod: "v1"}} }),
		"an endpoint by name":    change(plain, func(s *scenario.Scenario) { s.Objects.Services[0].Endpoints[0].ByName = true }),
		"a failover by zone":     change(plain, func(s *scenario.Scenario) { s.Objects.Services[0].Balance.Mode = intent.Failover }),
		"a waypoint not ready":   change(l7, func(s *scenario.Scenario) { s.Objects.Unready = []string{"waypoint"} }),
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
	for _, name := range []string{plain, outside, l7} {
		if err := change(name, func(*scenario.Scenario) {}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
