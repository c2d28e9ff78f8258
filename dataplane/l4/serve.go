package l4

import (
	"errors"
	"os"
)

// ServeWaypoint makes a pod of this node the waypoint end of the hand-off: from its
// return on, SO_ORIGINAL_DST of a socket that the pod accepts at the port answers
// the address that the client asked for. Serving again does nothing, but for
// another port, which replaces the first. It ends with StopWaypoint, with the pod's
// cgroup, and with Remove; where the engine is pinned it outlives the process. The
// descriptors stay the caller's.
func (e *Engine) ServeWaypoint(cgroup, netns *os.File, port uint16) error {
	return errors.New("serve waypoint: not in this build yet")
}

// StopWaypoint ends what ServeWaypoint began. Only the network namespace is needed;
// one that is not served is no error.
func (e *Engine) StopWaypoint(netns *os.File) error {
	return errors.New("stop waypoint: not in this build yet")
}
