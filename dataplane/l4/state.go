package l4

import (
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// state mirrors what the engine has written to the kernel. Only entries whose
// system call succeeded are in it, so that a failed Apply can be followed by
// another.
type state struct {
	// applied is set after the first Apply; before, the entries may be those
	// of a process that ran earlier.
	applied   bool
	services  map[*intent.Service]*compiled
	byName    map[string]*compiled
	workloads []*intent.Workload
	fronts    map[meshFrontendKey]meshFrontend
	// sizes has the number of slots of each set, refs how many frontends name it.
	sizes  map[setID]uint32
	refs   map[setID]int
	slots  uint32 // sum of sizes
	ranges *ranges

	lastGeneration uint32
}

func newState(slots uint32) *state {
	return &state{
		services: map[*intent.Service]*compiled{},
		byName:   map[string]*compiled{},
		fronts:   map[meshFrontendKey]meshFrontend{},
		sizes:    map[setID]uint32{},
		refs:     map[setID]int{},
		ranges:   newRanges(slots),
	}
}

func (s *state) putFront(k meshFrontendKey, v meshFrontend) {
	s.dropFront(k)
	s.fronts[k] = v
	if v.Slots > 0 {
		s.refs[setOf(v)]++
	}
}

func (s *state) dropFront(k meshFrontendKey) {
	old, ok := s.fronts[k]
	if !ok {
		return
	}
	delete(s.fronts, k)
	if old.Slots > 0 {
		if s.refs[setOf(old)]--; s.refs[setOf(old)] == 0 {
			delete(s.refs, setOf(old))
		}
	}
}

// putSet records that a set has n slots, whose range is taken.
func (s *state) putSet(id setID, n uint32) {
	s.slots += n
	s.sizes[id] = n
}

// dropSet makes a set's range free.
func (s *state) dropSet(id setID) {
	n := s.sizes[id]
	s.slots -= n
	delete(s.sizes, id)
	s.ranges.give(span{id.set, n})
}

// found records a frontend, and its set, as they were read from the kernel.
func (s *state) found(k meshFrontendKey, v meshFrontend) error {
	id := setOf(v)
	if v.Slots > 0 && s.sizes[id] == 0 {
		if !s.ranges.mark(span{v.Set, v.Slots}) {
			return fmt.Errorf("frontend %s: slots %s are out of range or of another set", keyString(k), id)
		}
		s.putSet(id, v.Slots)
		s.lastGeneration = max(s.lastGeneration, v.Generation)
	}
	s.putFront(k, v)
	return nil
}

// garbage returns the sets that no frontend names.
func (s *state) garbage() []setID {
	var ids []setID
	for id := range s.sizes {
		if s.refs[id] == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// inherit gives c's sets the identity that the service's last version had for
// equal targets.
func (s *state) inherit(c *compiled) {
	old := s.byName[c.service.Key()]
	if old == nil {
		return
	}
	for _, mine := range c.sets {
		if same := findSet(old.sets, mine.targets); same != nil {
			mine.id = same.id
		}
	}
}

// plan is what one Apply has to write.
type plan struct {
	services map[*intent.Service]*compiled
	byName   map[string]*compiled
	sets     []*slotSet
	slots    uint64  // of sets
	ranges   *ranges // after sets were placed
	// unplaced is the size of a set for which no row of slots was free.
	unplaced uint32
	putKeys  []meshFrontendKey
	put      []meshFrontend
	drop     []meshFrontendKey
	// replaces is set when a program may hold a value that the plan ends.
	replaces bool
	// endsUDP is set when a connected UDP socket may have an endpoint that the
	// plan takes away.
	endsUDP bool
	// added is the number of frontend keys that were not there.
	added int
}

// plan compares the services with the state, which it does not change.
func (s *state) plan(services []*intent.Service, from intent.Place) *plan {
	p := &plan{
		services: make(map[*intent.Service]*compiled, len(services)),
		byName:   make(map[string]*compiled, len(services)),
	}
	p.ranges = s.ranges.clone()
	claimed := make(map[meshFrontendKey]struct{}, len(s.fronts))
	for _, svc := range intent.ByPrecedence(services) {
		c := s.services[svc]
		if c == nil {
			c = compile(svc, from)
			s.inherit(c)
		}
		p.services[svc], p.byName[svc.Key()] = c, c
		for _, f := range c.fronts {
			if _, taken := claimed[f.key]; taken {
				continue
			}
			claimed[f.key] = struct{}{}
			p.place(s, f.set)
			p.want(s, f.key, f.value())
		}
		for _, k := range c.addresses {
			if _, known := claimed[k]; !known {
				claimed[k] = struct{}{}
				p.want(s, k, seal(k, meshFrontend{Flags: uint16(meshFrontendFlagFRONTEND_ADDR_ONLY)}))
			}
		}
	}
	p.unwanted(s, claimed)
	return p
}

func (p *plan) want(s *state, k meshFrontendKey, v meshFrontend) {
	old, ok := s.fronts[k]
	if ok && old == v {
		return
	}
	if ok {
		p.replaces = true
		p.endsUDP = p.endsUDP || isUDP(k)
	} else {
		p.added++
	}
	p.putKeys = append(p.putKeys, k)
	p.put = append(p.put, v)
}

func (p *plan) unwanted(s *state, claimed map[meshFrontendKey]struct{}) {
	if len(claimed) == len(s.fronts)+p.added {
		return // every old key is wanted
	}
	for k := range s.fronts {
		if _, wanted := claimed[k]; !wanted {
			p.drop = append(p.drop, k)
			p.endsUDP = p.endsUDP || isUDP(k)
		}
	}
	p.replaces = true
}

// place finds a range and a generation for a set that is not in the kernel.
func (p *plan) place(s *state, set *slotSet) {
	if set == nil || s.sizes[set.id] > 0 || slices.Contains(p.sets, set) {
		return
	}
	n := uint32(len(set.targets))
	at, ok := p.ranges.take(n)
	if !ok {
		p.unplaced = max(p.unplaced, n)
	}
	if s.lastGeneration++; s.lastGeneration == 0 {
		s.lastGeneration++ // 0 is what a slot has that was never written
	}
	set.id = setID{at, s.lastGeneration}
	p.sets = append(p.sets, set)
	p.slots += uint64(n)
}

// adopt makes the plan's services the ones to compare with.
func (s *state) adopt(p *plan, from intent.Snapshot) {
	s.services, s.byName, s.applied = p.services, p.byName, true
	s.workloads = slices.Clone(from.Workloads)
}

// slotsOf returns the indices and values of a set.
func slotsOf(set *slotSet) ([]uint32, []meshSlot) {
	values := aliasTable(set.targets)
	keys := make([]uint32, len(values))
	for i := range keys {
		keys[i] = set.id.set + uint32(i)
		values[i].Generation = set.id.generation
	}
	return keys, values
}
