package admin

import (
	"fmt"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l4"
)

// lostHandOffs are the events by which connections do not come to what they asked for
// by their waypoint, and what to know of each.
var lostHandOffs = []struct {
	event l4.Event
	words string
}{
	{l4.HandoffUnreached, "were refused by their waypoint or not answered: it may not listen for what it is handed"},
	{l4.RefuseCodec, "were refused: MPTCP and Fast Open cannot have the header that their waypoint wants"},
	{l4.HandoffEarly, "had no header, by a send that began before they were established: their waypoint refused them"},
	{l4.HandoffSilent, "ended without a word of the client, which their waypoint waits for: servers that speak first need original-dst"},
	{l4.HandoffUnwritten, "(or sends) had no room for a header: see the limit of unsent, and whether another mesh keeps sockets"},
	{l4.HandoffUnsent, "had no room for the option in their SYN: their waypoint refused them"},
}

// handOffLines says what became of connections that were not handed over, a line for
// each kind, and to which waypoints of s connections go.
func handOffLines(events map[l4.Event]uint64, s intent.Snapshot) []string {
	var all []string
	for _, lost := range lostHandOffs {
		if n := events[lost.event]; n > 0 {
			all = append(all, fmt.Sprintf("%d connections %s (%s)", n, lost.words, lost.event))
		}
	}
	if len(all) > 0 {
		all = append(all, "waypoints in use: "+waypointsInUse(s))
	}
	return all
}

// waypointsInUse names some of them, each with its codec and port.
func waypointsInUse(s intent.Snapshot) string {
	var names []string
	add := func(w *intent.Waypoint) {
		if w != nil {
			names = append(names, fmt.Sprintf("%s (%s at %d)", w.Name, w.Codec, w.Port))
		}
	}
	for _, svc := range s.Services {
		add(svc.Waypoint)
	}
	for _, w := range s.Workloads {
		add(w.Waypoint)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch more := len(names) - someNames; {
	case len(names) == 0:
		return "none"
	case more > 0:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:someNames], ", "), more)
	}
	return strings.Join(names, ", ")
}
