package netsim

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/l7/envoy"
	"github.com/duomesh/duomesh/internal/scenario"
)

// waypointWorld is a topology with waypoint pods on node b, and how it is opened with the
// waypoint of these sources and a real Envoy.
func waypointWorld(t *testing.T, pods ...string) (Config, scenario.Topology) {
	t.Helper()
	cfg := Config{Agent: buildAgent(t), Envoy: envoy.Find(os.Getenv("ENVOY_BIN")), Waypoint: filepath.Join(t.TempDir(), "duomesh-waypoint")}
	if cfg.Envoy == "" {
		t.Skip("NOT RUN: no Envoy: make tools fetches one, ENVOY_BIN names yours")
	}
	cmd := exec.Command("go", "build", "-o", cfg.Waypoint, "github.com/duomesh/duomesh/cmd/duomesh-waypoint")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the waypoint: %v\n%s", err, out)
	}
	topology := twoNodes(scenario.Duomesh)
	for _, name := range pods {
		topology.Nodes[1].Pods = append(topology.Nodes[1].Pods, scenario.Pod{Name: name, Waypoint: true})
	}
	return cfg, topology
}

// The process of a waypoint that somebody has killed is named, refuses meanwhile, and is
// started again by the name of its pod, or by a longer one where a node has that name.
func TestWaypointIsNamedAndStartedAgain(t *testing.T) {
	cfg, topology := waypointWorld(t, "way", "a")
	c := mustOpen(t, cfg, topology)
	vip := scenario.Target{Service: "fortio", Port: 80}
	objects := canary(1, 0)
	objects.Services[0].Waypoint = "way"
	if err := c.Apply(testContext(t), objects); err != nil {
		t.Fatal(err)
	}
	wantTally(t, dial(t, c, "client", vip, 10), "v1", 10)
	for _, w := range c.waypoints {
		proc := w.running()
		if proc == nil {
			t.Fatalf("waypoint %s does not run", w.pod.spec.Name)
		}
		if err := proc.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-proc.done
	}
	dir, id := filepath.Dir(c.Dir()), c.ID()
	ended, err := EndedOf(testContext(t), dir, id)
	if err != nil || !slices.Equal(ended, []string{"waypoint/a", "way"}) {
		t.Errorf("ended: %v, %v", ended, err)
	}
	for _, conn := range dial(t, c, "client", vip, 5) {
		if conn.Server != "" {
			t.Errorf("a connection was served without a waypoint: %+v", conn)
		}
	}
	if err := ReviveOf(testContext(t), dir, id, "way"); err != nil {
		t.Fatal(err)
	}
	wantTally(t, dial(t, c, "client", vip, 10), "v1", 10)
	var no RefusedError
	if err := ReviveOf(testContext(t), dir, id, "way"); !errors.As(err, &no) || !strings.Contains(err.Error(), "way runs") {
		t.Errorf("start what runs: %v", err)
	}
	if err := ReviveOf(testContext(t), dir, id, "nobody"); !errors.As(err, &no) || !strings.Contains(err.Error(), "a, b, waypoint/a, way") {
		t.Errorf("start what is not there: %v", err)
	}
	if err := ReviveOf(testContext(t), dir, id); err != nil {
		t.Error(err)
	}
	if ended := c.Ended(); ended != nil {
		t.Errorf("ended after the start: %v", ended)
	}
}
