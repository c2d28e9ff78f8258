// Package dataplane is the engines of one node behind one facade. The agent,
// the simulated cluster and the bench all call it in the same way.
package dataplane

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l4"
)

// Host is the ground that a Node stands on; see l4.Host for who owns what.
type Host = l4.Host

// Options choose how a Node is built. The zero value is the default.
type Options = l4.Options

// Limits are the sizes of a Node's kernel maps.
type Limits = l4.Limits

// DefaultLimits are those of a Node that is given none.
func DefaultLimits() Limits { return l4.DefaultLimits() }

// Pod is a pod of the node, by its descriptors.
type Pod = l4.Pod

// Event is counted beside the exits; see Node.Events.
type Event = l4.Event

// Difference is what Node.Audit found in one entry of the kernel.
type Difference = l4.Difference

// Usage is how full one kernel map is.
type Usage = l4.Usage

// PinError says why what an earlier process has pinned cannot be taken over.
type PinError = l4.PinError

// KernelError is Open's where the node's kernel lacks what is needed.
type KernelError = l4.KernelError

// PartialError is Node.Apply's when the kernel refused something in the middle.
type PartialError = l4.PartialError

// CapacityError says which kernel map is too small.
type CapacityError = l4.CapacityError

// Ended is a UDP socket that Node.EndStale ended.
type Ended = l4.Ended

// Neighbour is a foreign program on the path of the node's connections.
type Neighbour = l4.Neighbour

// Node is the dataplane of one node. Its methods may be called concurrently.
type Node struct {
	engine *l4.Engine
}

// Open starts the engines on h, or takes over the state that an earlier process
// pinned below h.BPFFS. The caller closes the Node, and after that what is in h.
func Open(h Host, o Options) (*Node, error) {
	e, err := l4.Open(h, o)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", h.Place.Node, err)
	}
	return &Node{engine: e}, nil
}

// Inherited reports whether the kernel has services or enrolments of an earlier process,
// which go on until the first Apply.
func (n *Node) Inherited() bool { return n.engine.Inherited() }

// Apply makes s the state of the node; see l4.Engine.Apply for what holds when
// it returns, with and without an error.
func (n *Node) Apply(ctx context.Context, s intent.Snapshot) error { return n.engine.Apply(ctx, s) }

// Shown is when the kernel had all of the last Snapshot; see l4.Engine.Shown.
func (n *Node) Shown() time.Time { return n.engine.Shown() }

// Enrol puts a pod under management, confirmed by the kernel. The descriptors
// in p stay the caller's and may be closed afterwards.
func (n *Node) Enrol(p Pod) error { return n.engine.Enrol(p) }

// Confirm asks the kernel whether a pod is managed, and changes nothing.
func (n *Node) Confirm(p Pod) error { return n.engine.Confirm(p) }

// ConfirmWaypoint asks the kernel whether a waypoint's pod is served, and changes nothing.
func (n *Node) ConfirmWaypoint(cgroup, netns *os.File, port uint16) error {
	return n.engine.ConfirmWaypoint(cgroup, netns, port)
}

// ConfirmAbsent asks the kernel whether a network namespace is neither a managed pod's nor
// a served waypoint's.
func (n *Node) ConfirmAbsent(netns *os.File) error { return n.engine.ConfirmAbsent(netns) }

// Older returns how many connections a pod has made that stand; before Enrol, how many
// will not be redirected. Only p.Netns is needed.
func (n *Node) Older(p Pod) (int, error) { return l4.Older(p) }

// EndOlder ends the connections that a pod has made, right after Enrol those that are
// older, and returns how many. Only p.Netns is needed.
func (n *Node) EndOlder(p Pod) (int, error) { return l4.EndOlder(p) }

// Leave ends the management of a pod; its open connections stay.
func (n *Node) Leave(p Pod) error { return n.engine.Leave(p) }

// Forget ends the management of a pod, or the service of a waypoint, that has ended, by
// the cookie of its network namespace.
func (n *Node) Forget(cookie uint64) error { return n.engine.Forget(cookie) }

// Unserved says which waypoints get no connection on this kernel, and why, a line each.
func (n *Node) Unserved() []string { return n.engine.Unserved() }

// ServeWaypoint answers SO_ORIGINAL_DST for the connections that a waypoint pod
// accepts at the hand-off port; see l4.Engine.ServeWaypoint. The descriptors stay
// the caller's and may be closed afterwards.
func (n *Node) ServeWaypoint(cgroup, netns *os.File, port uint16) error {
	return n.engine.ServeWaypoint(cgroup, netns, port)
}

// StopWaypoint ends that. A pod that is not served is no error.
func (n *Node) StopWaypoint(netns *os.File) error { return n.engine.StopWaypoint(netns) }

// EndStale ends the connected UDP sockets in these network namespaces whose
// endpoint has left its service; see l4.Engine.EndStale. Whoever calls Apply calls
// it afterwards for the enrolled pods.
func (n *Node) EndStale(pods ...*os.File) ([]Ended, error) { return n.engine.EndStale(pods...) }

// Exits returns how many connects, and sends of unconnected UDP sockets, ended with each exit of the decision table.
func (n *Node) Exits() (map[intent.Exit]uint64, error) { return n.engine.Exits() }

// Events returns how often the engine met what should not or rarely happen.
func (n *Node) Events() (map[Event]uint64, error) { return n.engine.Events() }

// Audit compares the kernel's maps and programs with what was applied; empty is equal.
func (n *Node) Audit() ([]Difference, error) { return n.engine.Audit() }

// Repair makes the kernel what was applied again, and returns what was not; see
// l4.Engine.Repair.
func (n *Node) Repair() ([]Difference, error) { return n.engine.Repair() }

// Usage returns use, limit and memory of each kernel map.
func (n *Node) Usage() ([]Usage, error) { return n.engine.Usage() }

// Neighbours returns the foreign programs that were found at Open.
func (n *Node) Neighbours() []Neighbour { return n.engine.Neighbours() }

// Close lets go of the node. What is pinned below Host.BPFFS goes on
// redirecting; without pins the redirection ends.
func (n *Node) Close() error { return n.engine.Close() }

// Remove ends the redirection, takes the pins away and closes the node.
func (n *Node) Remove() error { return n.engine.Remove() }
