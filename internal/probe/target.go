package probe

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Target is a pod to watch. Its descriptors stay the caller's and may be closed
// once the call that was given them has returned.
type Target struct {
	// Pod names it in results.
	Pod string
	// Netns is its network namespace.
	Netns *os.File
	// Cgroup is the cgroup v2 directory that its processes are in: the leaf,
	// so that the judge's program runs before that of any ancestor. Nil: what
	// its applications ask for is unknown to the cgroup provider.
	Cgroup *os.File
	// Links are the interfaces whose packets are its own.
	Links []Link
}

// Link is one interface of a pod.
type Link struct {
	// Netns is the namespace that the interface is in.
	Netns *os.File
	// Ifindex is its number there.
	Ifindex int
	// Side names the end: SidePod or SideHost.
	Side Side
}

// Side says at which end of a pod's link an interface is. Directions are always
// those of the pod: what the host's end receives has left the pod.
type Side string

// The two ends of a pod's link.
const (
	SidePod  Side = "pod"
	SideHost Side = "host"
)

// Direction is the way of a packet as the pod sees it.
type Direction string

// The two directions.
const (
	Out Direction = "out"
	In  Direction = "in"
)

// direction translates a hook at this end into the pod's view.
func (s Side) direction(h probeHook) Direction {
	if (h == probeHookHOOK_EGRESS) == (s == SidePod) {
		return Out
	}
	return In
}

func (t Target) validate() error {
	switch {
	case t.Pod == "":
		return errors.New("watch a pod: it has no name")
	case t.Netns == nil:
		return fmt.Errorf("watch pod %s: no network namespace given", t.Pod)
	}
	for _, l := range t.Links {
		switch {
		case l.Netns == nil:
			return fmt.Errorf("watch pod %s: link %d has no network namespace", t.Pod, l.Ifindex)
		case l.Ifindex <= 0:
			return fmt.Errorf("watch pod %s: interface number %d: must be positive", t.Pod, l.Ifindex)
		case l.Side != SidePod && l.Side != SideHost:
			return fmt.Errorf("watch pod %s: side %q of interface %d: must be %s or %s",
				t.Pod, l.Side, l.Ifindex, SidePod, SideHost)
		}
	}
	return nil
}

// monotonic is the clock of all events.
func monotonic() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return ts.Nano(), nil
}
