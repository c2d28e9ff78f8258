package kind

import (
	"reflect"
	"testing"

	"github.com/duomesh/duomesh/internal/scenario"
)

func named(t *testing.T, name string) scenario.Scenario {
	t.Helper()
	s, there := scenario.Find(name)
	if !there {
		t.Fatalf("there is no scenario %s", name)
	}
	return s
}

// TestOutsideTheMeshKubeProxyServes: what is left alone reaches the service's pods with
// the asked address in its socket; what the mesh does stays as it is declared.
func TestOutsideTheMeshKubeProxyServes(t *testing.T) {
	v2 := scenario.Want{
		Outcome: scenario.Connected, Via: scenario.ViaDNAT, Port: 8080,
		Split: map[string]float64{"v2": 1}, Ports: map[string]uint16{"v2": 8080},
	}
	s := named(t, "managed/bystander/500")
	got := adapt(s)
	if d := got.Phases[0].Loads[1].Want; !reflect.DeepEqual(d, v2) {
		t.Errorf("the bystander: %+v, want %+v", d, v2)
	}
	if !reflect.DeepEqual(got.Phases[0].Loads[0], s.Phases[0].Loads[0]) {
		t.Errorf("the client's load has become %+v", got.Phases[0].Loads[0])
	}
	if s.Phases[0].Loads[1].Want.Outcome != scenario.RefusedByPeer {
		t.Error("the scenario itself was changed")
	}

	// In and out, between the same two ends.
	v2.AnyPort = true
	s = adapt(named(t, "managed/enrol-and-leave/12000"))
	if w := s.Phases[2].Loads[0].Want; !w.AnyPort || w.Via != scenario.ViaSocket {
		t.Errorf("in again: %+v", w)
	}
	if w := s.Phases[0].Loads[0]; !reflect.DeepEqual(w.Want, v2) || w.Then.Via != scenario.ViaSocket || !w.Then.AnyPort {
		t.Errorf("before it enters: %+v, then %+v", w.Want, w.Then)
	}
	if w := s.Phases[1].Loads[0]; w.Want.Via != scenario.ViaSocket || !reflect.DeepEqual(*w.Then, v2) {
		t.Errorf("before it leaves: %+v, then %+v", w.Want, w.Then)
	}

	w := adapt(named(t, "l7/bystander/500")).Phases[0].Loads[1].Want
	if !w.Unweighed || len(w.Split) != 2 || w.Split["v1"] != .5 || w.Via != scenario.ViaDNAT {
		t.Errorf("of two endpoints: %+v", w)
	}
	for _, s := range scenario.All() {
		if Expressible(s) == nil {
			if err := adapt(s).Validate(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestLeftAloneFollowsWhatIsDeclared: by readiness and own ports, and of nobody the node
// refuses.
func TestLeftAloneFollowsWhatIsDeclared(t *testing.T) {
	top := scenario.Topology{Nodes: []scenario.Node{{Pods: []scenario.Pod{
		{Name: "v1", Ports: map[string]uint16{"web": 8080}}, {Name: "v2", Ports: map[string]uint16{"web": 9090}}, {Name: "v3"},
	}}}}
	o := scenario.Objects{
		Services: []scenario.Service{{
			Name: "s", Ports: []scenario.Port{{Port: 80, TargetName: "web"}},
			Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: 1}, {Pod: "v2", Weight: 1}, {Pod: "v3", Weight: 1}},
		}},
		Unready: []string{"v1"},
	}
	to, refused := scenario.Target{Service: "s", Port: 80, Family: scenario.IPv4}, scenario.Want{Outcome: scenario.RefusedByPeer}
	w := leftAlone(top, o, to, refused)
	if len(w.Split) != 1 || w.Split["v2"] != 1 || w.PortOf("v2") != 9090 || w.Unweighed {
		t.Errorf("one is not ready, one has no such port: %+v", w)
	}
	o.Unready = []string{"v1", "v2"}
	if w := leftAlone(top, o, to, refused); !reflect.DeepEqual(w, refused) {
		t.Errorf("without an endpoint: %+v", w)
	}
	mesh := scenario.Want{Outcome: scenario.RefusedByMesh}
	if w := leftAlone(top, scenario.Objects{Services: o.Services}, to, mesh); !reflect.DeepEqual(w, mesh) {
		t.Errorf("what the mesh refuses: %+v", w)
	}
}
