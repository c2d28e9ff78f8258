package l4

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

func TestEnrolAndLeave(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	apply(t, e, decisions()...)
	must(t, connected(t, p, "10.9.0.1:80", "10.9.0.1:80"))
	must(t, e.Enrol(p.Pod))
	before := e.writes()
	must(t, e.Enrol(p.Pod))
	if e.writes() != before {
		t.Error("enrolling again wrote")
	}
	must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	must(t, e.Leave(p.Pod))
	must(t, e.Leave(p.Pod))
	must(t, connected(t, p, "10.9.0.1:80", "10.9.0.1:80"))
	audited(t, e)
}

func TestEnrolRefuses(t *testing.T) {
	n, other := newNode(t), newNode(t)
	mine, foreign := n.pod(t, "default/mine"), other.pod(t, "default/foreign")
	e := n.open(t, Options{})
	gateway := workload("gw", "10.1.0.1")
	gateway.Gateway, gateway.Name = true, "gateway"
	must(t, e.Apply(context.Background(), intent.Snapshot{Workloads: []*intent.Workload{gateway}}))
	root, err := kernel.Cgroup2()
	must(t, err)
	above, err := os.Open(root)
	must(t, err)
	defer above.Close()
	plain, err := os.Open(t.TempDir())
	must(t, err)
	defer plain.Close()
	for _, c := range []struct {
		pod  Pod
		want string
	}{
		{foreign.Pod, "is not below the node's"},
		{Pod{Name: "default/above", Netns: mine.Netns, Cgroup: above}, "is not below the node's"},
		{Pod{Name: "default/plain", Netns: mine.Netns, Cgroup: plain}, "is not below the node's"},
		{Pod{Name: "default/gateway", Netns: mine.Netns, Cgroup: mine.Cgroup}, "never managed"},
		{Pod{Name: "default/half", Netns: mine.Netns}, "are both needed"},
		{Pod{Name: "default/swapped", Netns: mine.Cgroup, Cgroup: mine.Cgroup}, "enter network namespace"},
	} {
		err := e.Enrol(c.pod)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.pod.Name) {
			t.Errorf("%s: got %v, want %q", c.pod.Name, err, c.want)
		}
	}
	audited(t, e)
}

// An enrolment is not confirmed where the programs do not run.
func TestEnrolSeesADetachedProgram(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	for _, h := range e.hooks {
		if h.program == meshProgMeshConnect6 {
			must(t, h.link.Detach())
		}
	}
	if err := e.Enrol(p.Pod); err == nil || !strings.Contains(err.Error(), meshProgMeshConnect6+" does not run") {
		t.Errorf("got %v", err)
	}
}

// Pods whose cookies fall on one place are told apart by the map managed.
func TestPodsThatShareAPlace(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	apply(t, e, decisions()...)
	cookie, err := kernel.NetnsCookie(p.Netns)
	must(t, err)
	twin := cookie + uint64(meshMeshSizePOD_PLACES) // no namespace has it
	must(t, e.manage(twin))
	must(t, connected(t, p, "10.9.0.1:80", "10.9.0.1:80")) // only the twin is managed
	must(t, e.Enrol(p.Pod))
	must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	must(t, e.manage(twin+uint64(meshMeshSizePOD_PLACES)))
	audited(t, e)
	must(t, e.Leave(p.Pod))
	must(t, connected(t, p, "10.9.0.1:80", "10.9.0.1:80")) // two others share the place
	audited(t, e)
}

// A managed pod that becomes a gateway leaves with the Apply that says so: a
// waypoint whose own connections are redirected would loop.
func TestManagedPodBecomesGateway(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	gateway := workload("gw", "10.3.0.1")
	gateway.Gateway, gateway.Namespace, gateway.Name = true, "default", "client"
	must(t, e.Apply(context.Background(), intent.Snapshot{
		Services: decisions(), Workloads: []*intent.Workload{gateway},
	}))
	must(t, connected(t, p, "10.9.0.1:80", "10.9.0.1:80"))
	audited(t, e)
}
