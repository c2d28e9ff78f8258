package l4

import (
	"net/netip"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// way is a waypoint as seen from this node: one set for each family, shared by all
// services and workloads that have the waypoint.
type way struct {
	of   *intent.Waypoint
	sets [2]*slotSet // IPv4, IPv6; nil: no replica
	port uint16      // network byte order
	// users counts the applied services and workloads that have it.
	users int
}

func newWay(w *intent.Waypoint, from intent.Place) *way {
	made := &way{of: w, port: swapPort(w.Port)}
	for i := range made.sets {
		if replicas := w.Replicas(i == 1, from); len(replicas) > 0 {
			targets, _ := targetsOf(replicas)
			made.sets[i] = &slotSet{targets: targets}
		}
	}
	return made
}

// compileWorkload is for a workload with a waypoint of its own.
func compileWorkload(w *intent.Workload, through *way) *compiled {
	c := &compiled{workload: w}
	c.through(through, 0, w.Addresses)
	return c
}

// through brings the TCP connections to addresses and a port to a waypoint. Port 0
// is any port.
func (c *compiled) through(w *way, port uint16, addresses []netip.Addr) {
	if c.way == nil {
		c.way = w
		for _, set := range w.sets {
			if set != nil {
				c.sets = append(c.sets, set)
			}
		}
	}
	for _, addr := range addresses {
		f := front{
			key:   frontendKey(intent.Frontend{Addr: addr, Port: port, Protocol: intent.TCP}),
			flags: uint16(meshFrontendFlagFRONTEND_WAYPOINT),
			set:   w.sets[0],
		}
		if addr.Is6() {
			f.set = w.sets[1]
		}
		if f.set != nil {
			f.targetPort = w.port
		}
		c.fronts = append(c.fronts, f)
	}
}

// compare is the order in which compiled ones are given what several claim:
// services before workloads.
func (c *compiled) compare(o *compiled) int {
	switch {
	case c.service != nil && o.service != nil:
		return intent.Precedence(c.service, o.service)
	case c.service != nil:
		return -1
	case o.service != nil:
		return 1
	}
	return strings.Compare(c.workload.UID, o.workload.UID)
}

// way returns the sets of a waypoint, nil for none: those that are there already,
// or new ones.
func (p *plan) way(s *state, w *intent.Waypoint) *way {
	if w == nil {
		return nil
	}
	if known := s.ways[w]; known != nil {
		return known
	}
	made := p.ways[w]
	if made == nil {
		made = newWay(w, p.from)
		p.ways[w] = made
	}
	return made
}

// use and drop count who has a waypoint.
func (w *wanted) use(c *compiled) {
	if c != nil && c.way != nil {
		c.way.users++
		w.ways[c.way.of] = c.way
	}
}

func (w *wanted) drop(c *compiled) {
	if c == nil || c.way == nil {
		return
	}
	if c.way.users--; c.way.users == 0 {
		delete(w.ways, c.way.of)
	}
}
