package l4

import (
	"fmt"
	"slices"
	"time"
)

// mirror is what the engine has written to the kernel. Only entries whose system
// call succeeded are in it, so that a failed Apply can be followed by another.
type mirror struct {
	// torn is set when the frontends may be other than those of the last applied
	// Snapshot: an earlier process's, or those of an Apply that failed.
	torn bool
	// failed is set after an Apply that failed in the middle.
	failed bool
	fronts map[meshFrontendKey]meshFrontend
	// sizes has the number of slots of each set, refs how many frontends name it,
	// loose those that none names.
	sizes map[setID]uint32
	refs  map[setID]int
	loose map[setID]struct{}
	slots uint32 // sum of sizes
	// found are the slots that an earlier process has left, or an Apply that failed,
	// until one is done; nil when there is none.
	found  []meshSlot
	ranges *ranges
	// names has what was written; lingering those that no frontend has any more, and
	// since when.
	names     map[uint32]meshName
	lingering map[uint32]time.Time

	lastGeneration uint32
}

func newMirror(slots uint32) mirror {
	return mirror{
		torn:   true,
		fronts: map[meshFrontendKey]meshFrontend{},
		sizes:  map[setID]uint32{},
		refs:   map[setID]int{},
		loose:  map[setID]struct{}{},
		ranges: newRanges(slots),
		names:  map[uint32]meshName{}, lingering: map[uint32]time.Time{},
	}
}

func (m *mirror) putFront(k meshFrontendKey, v meshFrontend) {
	m.dropFront(k)
	m.fronts[k] = v
	if v.Slots > 0 {
		m.refs[setOf(v)]++
		delete(m.loose, setOf(v))
	}
}

func (m *mirror) dropFront(k meshFrontendKey) {
	old, ok := m.fronts[k]
	if !ok {
		return
	}
	delete(m.fronts, k)
	if old.Slots == 0 {
		return
	}
	if m.refs[setOf(old)]--; m.refs[setOf(old)] == 0 {
		delete(m.refs, setOf(old))
		m.loose[setOf(old)] = struct{}{}
	}
}

// putSet records that a set has n slots, whose range is taken.
func (m *mirror) putSet(id setID, n uint32) {
	m.slots += n
	m.sizes[id] = n
	m.loose[id] = struct{}{}
}

// dropLoose makes the ranges of sets that no frontend names free.
func (m *mirror) dropLoose() {
	for id := range m.loose {
		m.dropSet(id)
	}
}

// dropSet makes the range of a set that no frontend names free.
func (m *mirror) dropSet(id setID) {
	n := m.sizes[id]
	m.slots -= n
	delete(m.sizes, id)
	delete(m.loose, id)
	m.ranges.give(span{id.set, n})
}

// isThere reports whether what was found at a set's place is what another set is to
// be: it need not be written beside that.
func (m *mirror) isThere(id setID, set *slotSet) bool {
	n := len(set.targets)
	if m.found == nil || m.sizes[id] != uint32(n) {
		return false
	}
	_, want := slotsOf(&slotSet{id, set.targets})
	return slices.Equal(want, m.found[id.set:int(id.set)+n])
}

// strangeError is about an entry of the kernel that no engine has written.
type strangeError string

// Error implements error.
func (s strangeError) Error() string { return string(s) }

// meet records a frontend, and its set, as they were read from the kernel.
func (m *mirror) meet(k meshFrontendKey, v meshFrontend) error {
	id := setOf(v)
	if v.Slots > 0 && m.sizes[id] == 0 {
		if !m.ranges.mark(span{v.Set, v.Slots}) {
			return strangeError(fmt.Sprintf("frontend %s: slots %s are out of range or of another set", keyString(k), id))
		}
		m.putSet(id, v.Slots)
	}
	m.putFront(k, v)
	return nil
}
