package netsim

import (
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

func service(name string, endpoints ...scenario.Endpoint) scenario.Service {
	return scenario.Service{Name: name, Ports: []scenario.Port{{Port: 80, Target: 8080}}, Endpoints: endpoints}
}

// TestDeriveShares shows that what did not change is the same value, by which
// an engine knows what it need not touch.
func TestDeriveShares(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
	v1, v2 := scenario.Endpoint{Pod: "v1", Weight: 1}, scenario.Endpoint{Pod: "v2", Weight: 5}
	derive := func(old *desired, services ...scenario.Service) *desired {
		t.Helper()
		d, err := c.derive(old, scenario.Objects{Services: services})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := derive(newDesired(), service("same", v1, v2), service("changed", v1, v2))
	v2.Weight = 6
	second := derive(first, service("same", v1, scenario.Endpoint{Pod: "v2", Weight: 5}), service("changed", v1, v2))
	if first.services["same"] != second.services["same"] {
		t.Error("the service that did not change is another value")
	}
	if first.services["changed"] == second.services["changed"] {
		t.Error("the service that changed is the same value")
	}
	weights := map[string]uint32{}
	for _, e := range second.services["changed"].Endpoints {
		weights[e.Workload.Name] = e.Workload.Weight
	}
	if weights["v1"] != 1 || weights["v2"] != 6 {
		t.Errorf("weights are %v, want 1 and 6", weights)
	}
	if w := second.services["same"].Endpoints[1].Workload; w.Weight != 5 || w.Name != "v2" {
		t.Errorf("one pod has one weight in two services: %+v", w)
	}
	if got := intent.Decide(second.snapshot, intent.Caller{}, mustResolve(t, c, "same"), intent.TCP); got.Exit != intent.PassUnmanaged {
		t.Errorf("decision is %v", got)
	}
	managed := intent.Caller{Managed: true, Place: intent.Place{Node: "a"}}
	if got := intent.Decide(second.snapshot, managed, mustResolve(t, c, "same"), intent.TCP); len(got.Targets) != 2 {
		t.Errorf("decision is %+v, want two targets", got)
	}
}
