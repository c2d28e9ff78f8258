package kind

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/internal/scenario"
)

func twoWaypoints() scenario.Topology {
	return scenario.Topology{Mesh: scenario.Duomesh, Nodes: []scenario.Node{
		{Name: "a", Pods: []scenario.Pod{{Name: "w1", Waypoint: true}, {Name: "v1"}}},
		{Name: "b", Pods: []scenario.Pod{{Name: "w2", Waypoint: true}}},
	}}
}

// TestGatewaysOfATopology: a pod is a replica of what is declared, else a waypoint by its
// own name, and stays what it is.
func TestGatewaysOfATopology(t *testing.T) {
	pair := scenario.Objects{Waypoints: []scenario.Waypoint{{Name: "pair", Pods: []string{"w2", "w1"}}, {Name: "nobody"}}}
	g := gateways{}
	added, err := g.add(twoWaypoints(), pair)
	if err != nil || !slices.Equal(added, []string{"pair", "nobody"}) {
		t.Fatalf("%v: %v", added, err)
	}
	if g.of("w1") != "pair" || g.of("w2") != "pair" || g.of("v1") != "" || len(g["nobody"].pods) != 0 {
		t.Errorf("%+v", g)
	}
	if added, err := g.add(twoWaypoints(), scenario.Objects{}); err != nil || len(added) > 0 {
		t.Errorf("nothing more is declared: %v: %v", added, err)
	}
	for name, w := range map[string]scenario.Waypoint{
		"fewer replicas":    {Name: "pair", Pods: []string{"w1"}},
		"another codec":     {Name: "pair", Pods: []string{"w1", "w2"}, Codec: scenario.ProxyV2},
		"of another's pods": {Name: "other", Pods: []string{"w1"}},
	} {
		if _, err := g.add(twoWaypoints(), scenario.Objects{Waypoints: []scenario.Waypoint{w}}); !errors.Is(err, scenario.ErrNotExpressible) {
			t.Errorf("%s: %v", name, err)
		}
	}
	own := gateways{}
	if added, err := own.add(twoWaypoints(), scenario.Objects{}); err != nil || !slices.Equal(added, []string{"w1", "w2"}) {
		t.Errorf("by their own names: %v: %v", added, err)
	}
}

// TestDeploymentOfAGateway: as many pods as replicas, each on a node of its own, told how
// they are handed connections.
func TestDeploymentOfAGateway(t *testing.T) {
	c := &Cluster{
		nodes: map[string]string{"a": "worker", "b": "worker2"},
		pods:  map[string]*pod{"w1": {node: "a"}, "w2": {node: "b"}},
	}
	spec := func(g gateway, replicas int) map[string]any {
		t.Helper()
		text, err := c.deployment("pair", g, replicas)
		if err != nil {
			t.Fatal(err)
		}
		var all map[string]map[string]any
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			t.Fatal(err)
		}
		return all["spec"]
	}
	two := spec(gateway{[]string{"w1", "w2"}, scenario.ProxyV2}, 2)
	text, _ := json.Marshal(two)
	for _, want := range []string{
		`"replicas":2`, `"values":["worker","worker2"]`, `"topologyKey":"kubernetes.io/hostname"`,
		`{"name":"DUOMESH_CODEC","value":"proxy-v2"}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	none := spec(gateway{nil, scenario.OriginalDst}, 0)
	want := map[string]any{"replicas": 0.0, "template": map[string]any{"spec": map[string]any{}}}
	if !reflect.DeepEqual(none, want) {
		t.Errorf("no replica: %v", none)
	}
}

// TestProcessesOfAContainer: those of its own directory and below, and not the sandbox's.
func TestProcessesOfAContainer(t *testing.T) {
	dir := t.TempDir()
	for at, pids := range map[string]string{"cri-sandbox.scope": "7\n", "cri-one.scope": "8\n", "cri-one.scope/below": "9\n10\n", "cri-two.scope": ""} {
		if err := os.MkdirAll(filepath.Join(dir, at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, at, "cgroup.procs"), []byte(pids), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := processesOf(dir, "one")
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []int{8, 9, 10}) {
		t.Errorf("%v: %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cri-two.scope", "cgroup.procs"), []byte("0\n11\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, none := range []string{"two", "three", ""} {
		if got, err := processesOf(dir, none); err == nil {
			t.Errorf("container %q: %v and no error", none, got)
		}
	}
}
