package scenario

import (
	"errors"
	"fmt"
)

// Action is one change of a world.
type Action interface {
	// String says what is done, for people.
	String() string
}

// Apply makes Objects the declared state.
type Apply struct{ Objects Objects }

// String implements Action.
func (Apply) String() string { return "apply objects" }

// Enrol brings a pod into the mesh.
type Enrol struct{ Pod string }

// String implements Action.
func (a Enrol) String() string { return "enrol " + a.Pod }

// Leave takes a pod out of the mesh.
type Leave struct{ Pod string }

// String implements Action.
func (a Leave) String() string { return "leave " + a.Pod }

// StopServer ends the listeners of a pod as a rollout does: connections that
// are open or waiting to be accepted are served to their end first. It returns
// when the listeners are closed.
type StopServer struct{ Pod string }

// String implements Action.
func (a StopServer) String() string { return "stop the server of " + a.Pod }

// Recycle ends a pod, and makes another with the same name and addresses: a new
// network namespace and cgroup. Nobody tells the mesh, and the new pod is not
// enrolled. Nothing else may use the pod at the same time.
type Recycle struct{ Pod string }

// String implements Action.
func (a Recycle) String() string { return "recycle pod " + a.Pod }

// KillAgent ends a node's agent by SIGKILL.
type KillAgent struct{ Node string }

// String implements Action.
func (a KillAgent) String() string { return "kill the agent of node " + a.Node }

// StartAgent starts a node's agent again. It returns when the agent has taken
// over what the one before it left, and has applied the declared state.
type StartAgent struct{ Node string }

// String implements Action.
func (a StartAgent) String() string { return "start the agent of node " + a.Node }

// KillIstiod ends the control plane's istiod by SIGKILL.
type KillIstiod struct{}

// String implements Action.
func (KillIstiod) String() string { return "kill istiod" }

// StartIstiod starts istiod again and returns when it serves.
type StartIstiod struct{}

// String implements Action.
func (StartIstiod) String() string { return "start istiod" }

// KillWaypoint ends all processes of a waypoint's pod by SIGKILL. Nobody tells the mesh.
type KillWaypoint struct{ Pod string }

// String implements Action.
func (a KillWaypoint) String() string { return "kill the waypoint " + a.Pod }

// StartWaypoint starts a waypoint that was killed. It returns when it has the declared
// state and takes connections.
type StartWaypoint struct{ Pod string }

// String implements Action.
func (a StartWaypoint) String() string { return "start the waypoint " + a.Pod }

// Churn replaces the declared objects by one after the other of Between, Changes
// times, PerSecond times a second, and does not wait for any but the last. Each
// KillEvery changes the agents of the nodes Kill are killed and started again; 0
// means never.
//
// With Through it begins when a tenth of the first connections of every load is made,
// and goes on, past Changes where need be, until nine tenths are: most connections
// are then made while objects change.
type Churn struct {
	Between   []Objects
	Changes   int
	PerSecond int
	Kill      []string
	KillEvery int
	Through   bool
	// Over is closed when a Churn with Through may end. Who runs the scenario sets
	// it; a nil one does not hold the end up.
	Over <-chan struct{}
}

// String implements Action.
func (a Churn) String() string {
	if a.Through {
		return fmt.Sprintf("change the objects %d times a second all the while", a.PerSecond)
	}
	return fmt.Sprintf("change the objects %d times, %d times a second", a.Changes, a.PerSecond)
}

// validate reports what keeps an action from being done in the topology.
func (t Topology) validate(a Action) error {
	switch a := a.(type) {
	case KillAgent:
		return t.hasAgent(a.Node)
	case StartAgent:
		return t.hasAgent(a.Node)
	case KillWaypoint:
		return t.hasWaypoint(a.Pod)
	case StartWaypoint:
		return t.hasWaypoint(a.Pod)
	case Churn:
		if len(a.Between) == 0 || a.Changes < 1 || a.PerSecond < 1 || a.KillEvery < 0 {
			return errors.New("it needs objects, a number of changes and a rate")
		}
		for _, node := range a.Kill {
			if err := t.hasAgent(node); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasAgent reports why a node has no agent that could be killed.
func (t Topology) hasAgent(node string) error {
	if !t.Agents {
		return errors.New("the topology has no agents")
	}
	for _, n := range t.Nodes {
		if n.Name == node {
			return nil
		}
	}
	return fmt.Errorf("node %s is not in the topology", node)
}

// hasWaypoint reports why a pod is no waypoint.
func (t Topology) hasWaypoint(pod string) error {
	if t.waypoints()[pod] {
		return nil
	}
	return fmt.Errorf("pod %s is no waypoint of the topology", pod)
}

// waypoints are the pods that are waypoints.
func (t Topology) waypoints() map[string]bool {
	all := map[string]bool{}
	for _, n := range t.Nodes {
		for _, p := range n.Pods {
			if p.Waypoint {
				all[p.Name] = true
			}
		}
	}
	return all
}
