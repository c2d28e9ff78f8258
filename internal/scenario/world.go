package scenario

import (
	"context"
	"errors"
	"net/netip"
	"os"

	"github.com/duomesh/duomesh/internal/traffic"
)

// ErrNotExpressible is wrapped by a World that cannot do what a scenario asks
// of it; the scenario is then NOT RUN there, with the error as the reason.
var ErrNotExpressible = errors.New("not expressible in this world")

// World is a place where scenarios run: simulated pods, or a real cluster.
type World interface {
	// Apply makes o the declared state and returns when every node's kernel
	// has it.
	Apply(ctx context.Context, o Objects) error
	// Pod returns the handles of a pod; they stay the world's.
	Pod(name string) (PodHandle, error)
	// Resolve returns the address that a client dials for a target.
	Resolve(t Target) (netip.AddrPort, error)
	// Exec runs a load in a pod until it ends. The world sets FirstID, so that
	// every connection in it has an ID of its own. Each connection is also handed
	// to seen, in the order of their ends, when seen is not nil. On error it returns
	// those that were seen before; traffic.ErrGaveUp says that the client made no more.
	Exec(ctx context.Context, pod string, l traffic.Load, seen func(traffic.Conn)) ([]traffic.Conn, error)
	// Served returns what the servers of all pods have seen since the world
	// opened, by pod name. Every connection that clients have closed is in it, but for
	// servers that did not tell: a traffic.SilentError names them, and comes with what
	// is known.
	Served(ctx context.Context) (map[string][]traffic.Conn, error)
	// Do carries out one action and returns when it holds everywhere.
	Do(ctx context.Context, a Action) error
	// Close takes the world down. Nothing of it is left.
	Close() error
}

// Forwarder is a World that can tell what its waypoints have done.
type Forwarder interface {
	// Forwarded returns how many requests a waypoint's proxy says it has sent to each
	// service since it was started. One that does not run cannot tell.
	Forwarded(ctx context.Context, pod string) (map[string]uint64, error)
}

// Adapter is a World in which something else becomes of what the mesh leaves alone than
// a scenario says: where nobody else serves a service's address, the asked address refuses.
type Adapter interface {
	// Adapt returns s with what becomes there of connections that the mesh leaves alone.
	Adapt(s Scenario) (Scenario, error)
}

// Opener makes a world for a topology.
type Opener func(ctx context.Context, t Topology) (World, error)

// PodHandle is what an observer needs of a pod. The descriptors are the
// world's, open until it is closed.
type PodHandle struct {
	Name   string
	Node   string
	Netns  *os.File
	Cgroup *os.File
	// IPv4 and IPv6 are the first of each family; one that it has not is invalid.
	IPv4 netip.Addr
	IPv6 netip.Addr
	// Addresses are all, in their order.
	Addresses []netip.Addr
	Links     []LinkEnd
	Managed   bool
	// Probed are the ports at which the world itself asks whether the pod is well, as
	// kubelet does: no client of a scenario does.
	Probed []uint16
	// Forwarded are the ports of the pod's loopback at which the world itself asks it, as a
	// forwarded port does.
	Forwarded []uint16
}

// LinkEnd is one end of a pod's link.
type LinkEnd struct {
	// Netns is the namespace that the interface is in.
	Netns   *os.File
	Ifindex int
	// InPod is set for the end inside the pod, clear for the node's end.
	InPod bool
}
