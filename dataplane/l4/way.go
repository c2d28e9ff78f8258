package l4

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// way is a waypoint as seen from this node: one set for each family, shared by all
// services and workloads that have the waypoint.
type way struct {
	of      *intent.Waypoint
	sets    [2]*slotSet // IPv4, IPv6; nil: no replica
	refused [2]bool     // a policy names a replica
	port    uint16      // network byte order
	// lacks is why this kernel hands nothing over to it; it has no sets then.
	lacks error
	// users counts the applied services and workloads that have it.
	users int
}

func newWay(w *intent.Waypoint, from intent.Place, lacks error) *way {
	made := &way{of: w, port: swapPort(w.Port), lacks: lacks}
	for i := range made.sets {
		replicas := w.Replicas(i == 1, from)
		made.refused[i] = areUnprotected(replicas)
		if len(replicas) > 0 && !made.refused[i] && lacks == nil {
			targets, _ := targetsOf(replicas)
			made.sets[i] = &slotSet{targets: targets}
		}
	}
	return made
}

// isTaken is true for a workload whose own addresses are not left alone. Those of a
// workload on another network are somebody else's here.
func isTaken(w *intent.Workload, from intent.Place) bool {
	return w.Network == from.Network && (isRefused(w) || w.OwnWaypoint() != nil)
}

// isRefused is true where connections to a workload's own addresses are refused for a
// policy; a hostNetwork pod's are the node's.
func isRefused(w *intent.Workload) bool { return w.Unprotected && !w.HostNetwork }

// compileWorkload is for a workload that isTaken; through is its waypoint, if any.
func compileWorkload(w *intent.Workload, through *way) *compiled {
	c := &compiled{workload: w}
	if isRefused(w) {
		c.refuse(0, w.Addresses)
	} else {
		c.through(through, 0, w.Addresses)
	}
	return c
}

// through brings the TCP connections to addresses and a port to a waypoint. Port 0
// is any port.
func (c *compiled) through(w *way, port uint16, addresses []netip.Addr) {
	c.way = w
	for _, addr := range addresses {
		if w.refused[family(addr)] {
			c.fronts = append(c.fronts, refusedFront(addr, port))
			continue
		}
		f := front{
			key:   frontendKey(intent.Frontend{Addr: addr, Port: port, Protocol: intent.TCP}),
			flags: uint16(meshFrontendFlagFRONTEND_WAYPOINT | headerFlags[w.of.Codec]),
			set:   w.sets[family(addr)],
		}
		if f.set != nil {
			f.targetPort = w.port
		}
		c.fronts = append(c.fronts, f)
	}
}

// owner returns who has a frontend: h, or a workload at the address of a service that
// lets TCP connections go where they were going.
func (p *plan) owner(s *state, k meshFrontendKey, h holder) holder {
	if !h.passes() || isUDP(k) {
		return h
	}
	at := k
	at.Port = 0
	list, touched := p.holders[at]
	if !touched {
		list = s.holders[at]
	}
	for _, o := range list {
		if o.workload != nil {
			f := *o.front
			f.key = k
			return holder{o.compiled, &f}
		}
	}
	return h
}

// touchPassed has those frontends compared whose owner may be another one: a workload
// has come to their address, or left it.
func (p *plan) touchPassed(s *state) {
	isWorkload := func(h holder) bool { return h.workload != nil }
	for i := 0; i < len(p.keys); i++ { // touch appends
		k := p.keys[i]
		if k.Port != 0 || !slices.ContainsFunc(p.holders[k], isWorkload) && !slices.ContainsFunc(s.holders[k], isWorkload) {
			continue
		}
		for _, h := range p.holders[k] {
			for j := range h.fronts {
				if f := &h.fronts[j]; f.key.Addr == k.Addr && (holder{h.compiled, f}).passes() {
					p.touch(s, f.key)
				}
			}
		}
	}
}

// family is the index of an address's family in a way.
func family(addr netip.Addr) int {
	if addr.Is6() {
		return 1
	}
	return 0
}

// compare is the order in which compiled ones are given what several claim:
// services before workloads, and of those the ones that are refused first.
func (c *compiled) compare(o *compiled) int {
	switch {
	case c.service != nil && o.service != nil:
		return intent.Precedence(c.service, o.service)
	case c.service != nil:
		return -1
	case o.service != nil:
		return 1
	case isRefused(c.workload) != isRefused(o.workload):
		if isRefused(c.workload) {
			return -1
		}
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
		made = newWay(w, p.from, s.lacks.forCodec(w.Codec))
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
