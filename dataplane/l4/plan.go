package l4

import (
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// state is what is wanted and what is there.
type state struct {
	wanted
	mirror
}

func newState(slots uint32) *state { return &state{newWanted(), newMirror(slots)} }

// plan is what one Apply has to write.
type plan struct {
	changes
	from     intent.Place
	compiled []*compiled // the services, and workloads with a waypoint, that were added
	ways     map[*intent.Waypoint]*way
	// holders has, for each frontend that a changed service claims or did claim,
	// who claims it now; keys has the same frontends in an order that is always
	// the same.
	holders map[meshFrontendKey][]holder
	keys    []meshFrontendKey

	// ids has who has an id, where that changes; named are those in use.
	ids       map[uint32][]meshFrontendKey
	named     map[uint32]bool
	putNames  map[uint32]meshName
	dropNames []uint32
	// handsOff is set when a frontend leads to a waypoint by an option in the SYN,
	// heads when one leads to a waypoint that wants a header.
	handsOff, heads bool

	sets   []*slotSet
	placed map[*slotSet]bool // those in sets
	// kept are the sets that were found in the kernel and stay, by whose they are now.
	kept   map[setID]*slotSet
	slots  uint64  // of sets
	ranges *ranges // after sets were placed
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

// plan finds what to write for a Snapshot that differs by c. The state is not
// changed, but for generations, which are never given twice.
func (s *state) plan(c changes, from intent.Place) *plan {
	p := &plan{
		changes: c, from: from, ranges: s.ranges.clone(), ways: map[*intent.Waypoint]*way{},
		holders: map[meshFrontendKey][]holder{}, placed: map[*slotSet]bool{}, kept: map[setID]*slotSet{},
		ids: map[uint32][]meshFrontendKey{}, named: map[uint32]bool{}, putNames: map[uint32]meshName{},
	}
	for _, svc := range c.services.gone {
		p.release(s, s.byName[svc.Key()])
	}
	for _, w := range c.workloads.gone {
		if old := s.uids[w.UID]; old != nil {
			p.release(s, old)
		}
	}
	for _, svc := range c.services.added {
		p.add(s, compile(svc, from, p.way(s, svc.Waypoint)), s.byName[svc.Key()])
	}
	for _, w := range c.workloads.added {
		if isTaken(w, from) {
			p.add(s, compileWorkload(w, p.way(s, w.OwnWaypoint())), s.uids[w.UID])
		}
	}
	if s.torn {
		p.touchAll(s)
		p.replaces = len(s.fronts)+len(s.loose) > 0 // perhaps nobody waited
	}
	p.touchPassed(s)
	p.countIDs(s)
	for _, k := range p.keys {
		if list := p.holders[k]; len(list) > 0 {
			p.want(s, k, p.owner(s, k, list[0]))
		} else {
			p.unwant(s, k)
		}
	}
	if s.torn {
		p.forgetNames(s)
	}
	return p
}

// add claims what one that was added has; old is its last version, if any.
func (p *plan) add(s *state, now, old *compiled) {
	s.inherit(now, old)
	p.compiled = append(p.compiled, now)
	p.claim(s, now)
}

// inherit gives c's sets the identity that the last version had for equal targets.
func (s *state) inherit(c, old *compiled) {
	if old == nil {
		return
	}
	for _, mine := range c.sets {
		if same := findSet(old.sets, mine.targets); same != nil {
			mine.id = same.id
		}
	}
}

// touch returns who claims a frontend, to be changed.
func (p *plan) touch(s *state, k meshFrontendKey) []holder {
	list, touched := p.holders[k]
	if !touched {
		list = slices.Clone(s.holders[k])
		p.holders[k] = list
		p.keys = append(p.keys, k)
	}
	return list
}

// touchAll has every frontend compared with the kernel.
func (p *plan) touchAll(s *state) {
	for k := range s.holders {
		p.touch(s, k)
	}
	for k := range s.fronts {
		p.touch(s, k)
	}
}

func (p *plan) claim(s *state, c *compiled) {
	for i := range c.fronts {
		f := &c.fronts[i]
		p.holders[f.key] = insert(p.touch(s, f.key), holder{c, f})
	}
	for _, k := range c.addresses {
		p.holders[k] = insert(p.touch(s, k), holder{c, nil})
	}
}

func (p *plan) release(s *state, c *compiled) {
	drop := func(k meshFrontendKey) {
		p.holders[k] = slices.DeleteFunc(p.touch(s, k), func(h holder) bool { return h.compiled == c })
	}
	for _, f := range c.fronts {
		drop(f.key)
	}
	for _, k := range c.addresses {
		drop(k)
	}
}

func (p *plan) want(s *state, k meshFrontendKey, h holder) {
	if h.front != nil {
		p.place(s, h)
	}
	var id uint32
	if h.front != nil && h.front.handedOff() && s.lacks.handoff == nil {
		id = p.id(s, k)
		p.handsOff = true
	}
	p.heads = p.heads || h.front != nil && h.front.headed() && s.lacks.headers == nil
	v := h.value(k, id)
	p.rename(s, k, v)
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

func (p *plan) unwant(s *state, k meshFrontendKey) {
	if _, there := s.fronts[k]; !there {
		return
	}
	p.rename(s, k, meshFrontend{})
	p.drop = append(p.drop, k)
	p.replaces = true
	p.endsUDP = p.endsUDP || isUDP(k)
}

// place finds a range and a generation for the set of a front that is not in the
// kernel.
func (p *plan) place(s *state, h holder) {
	set := h.front.set
	if set == nil || s.sizes[set.id] > 0 || p.placed[set] {
		return
	}
	if p.keep(s, h.compiled, set) {
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
	p.placed[set] = true
	p.sets = append(p.sets, set)
	p.slots += uint64(n)
}

// keep gives a set the place of what was found in the kernel, where that is the same
// and one of the set's own frontends has it.
func (p *plan) keep(s *state, c *compiled, set *slotSet) bool {
	if s.found == nil {
		return false
	}
	for _, f := range c.fronts {
		if f.set != set {
			continue
		}
		if id := setOf(s.fronts[f.key]); p.kept[id] == nil && s.isThere(id, set) {
			set.id = id
			p.kept[id] = set
			return true
		}
	}
	return false
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
