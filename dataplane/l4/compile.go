package l4

import (
	"net/netip"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// compiled is one service, or the waypoint of one workload's own addresses, in the
// form of the maps, before sets are placed.
type compiled struct {
	service  *intent.Service
	workload *intent.Workload // when there is no service
	// way is the waypoint of fronts, if one has one.
	way *way
	// addresses are the keys, at port 0 of TCP, under which the service's
	// addresses are known.
	addresses []meshFrontendKey
	fronts    []front
	sets      []*slotSet
}

// front is one frontend of a service.
type front struct {
	key meshFrontendKey
	// set is nil when no endpoint can be chosen, or none is to be.
	set        *slotSet
	targetPort uint16 // network byte order; 0: each slot has its own
	flags      uint16
}

// value is the front's entry, once its set has a place. id is that of the hand-off,
// 0 when it has none.
func (f front) value(id uint32) meshFrontend {
	v := meshFrontend{TargetPort: f.targetPort, Flags: f.flags, Id: id}
	if f.set != nil {
		v.Set, v.Generation = f.set.id.set, f.set.id.generation
		v.Slots = uint32(len(f.set.targets))
	}
	return seal(f.key, v)
}

// slotSet is a list of targets that frontends share. It never changes.
type slotSet struct {
	id      setID
	targets []target
}

// compile works out the frontends and sets of a service as seen from a place.
// Ports whose targets differ in nothing but one common port share a set.
func compile(svc *intent.Service, from intent.Place, w *way) *compiled {
	c := &compiled{service: svc}
	for _, addr := range svc.Addresses {
		c.addresses = append(c.addresses, frontendKey(intent.Frontend{Addr: addr, Protocol: intent.TCP}))
	}
	for _, port := range svc.Ports {
		if w != nil && port.Protocol == intent.TCP {
			c.through(w, port.Port, svc.Addresses)
		} else {
			c.port(port, from)
		}
	}
	return c
}

func (c *compiled) port(p intent.Port, from intent.Place) {
	if c.service.Balance.Mode == intent.Passthrough {
		for _, addr := range c.service.Addresses {
			c.fronts = append(c.fronts, front{
				key:   frontendKey(frontendOf(addr, p)),
				flags: uint16(meshFrontendFlagFRONTEND_PASSTHROUGH),
			})
		}
		return
	}
	for _, v6 := range []bool{false, true} {
		c.family(p, v6, from)
	}
}

func (c *compiled) family(p intent.Port, v6 bool, from intent.Place) {
	var f front
	found := false
	for _, addr := range c.service.Addresses {
		if addr.Is6() != v6 {
			continue
		}
		if !found {
			f.set, f.targetPort = c.share(c.service.Targets(p, v6, from))
			found = true
		}
		f.key = frontendKey(frontendOf(addr, p))
		c.fronts = append(c.fronts, f)
	}
}

func frontendOf(addr netip.Addr, p intent.Port) intent.Frontend {
	return intent.Frontend{Addr: addr, Port: p.Port, Protocol: p.Protocol}
}

// share returns the set of these targets, and the port that all of them have.
func (c *compiled) share(wanted []intent.Target) (*slotSet, uint16) {
	if len(wanted) == 0 {
		return nil, 0
	}
	targets, common := targetsOf(wanted)
	return c.setOf(targets), common
}

// targetsOf returns targets in the order of a set, and the port that all of them
// have in network byte order, 0 when each has its own.
func targetsOf(wanted []intent.Target) ([]target, uint16) {
	common := wanted[0].Addr.Port()
	for _, t := range wanted {
		if t.Addr.Port() != common {
			common = 0
			break
		}
	}
	targets := make([]target, len(wanted))
	for i, t := range wanted {
		targets[i] = target{addr: addrWords(t.Addr.Addr()), weight: t.Weight}
		if common == 0 {
			targets[i].port = swapPort(t.Addr.Port())
		}
	}
	slices.SortFunc(targets, target.compare) // is_member of bpf/mesh searches
	return targets, swapPort(common)
}

func (c *compiled) setOf(targets []target) *slotSet {
	if s := findSet(c.sets, targets); s != nil {
		return s
	}
	s := &slotSet{targets: targets}
	c.sets = append(c.sets, s)
	return s
}

func findSet(sets []*slotSet, targets []target) *slotSet {
	for _, s := range sets {
		if slices.Equal(s.targets, targets) {
			return s
		}
	}
	return nil
}
