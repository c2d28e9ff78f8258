package l4

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Difference is an entry of the kernel that is not what the engine wrote, or a
// program that is not attached where it was.
type Difference struct {
	// Map is the map's name, as in Usage, or Attachments, or Pinned.
	Map string
	// Entry names the key, for example "10.0.0.1:80/TCP", or the program, or the path.
	Entry string
	// Want and Have are the values as text, "" for an entry that is not there.
	Want, Have string
}

// String is one line for people.
func (d Difference) String() string {
	return fmt.Sprintf("map %s, entry %s: want %q, have %q", d.Map, d.Entry, d.Want, d.Have)
}

// Attachments stands for a map's name in a Difference of a program that somebody
// detached from the node's cgroup, or replaced there: nothing is redirected by it,
// whatever the maps hold.
const Attachments = "attachments"

// Audit compares all entries of the kernel's maps with the applied Snapshot and
// the enrolled pods, and the node's programs with what is attached. It needs an
// Apply before.
func (e *Engine) Audit() ([]Difference, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	found, err := e.audit()
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return found, nil
}

func (e *Engine) audit() ([]Difference, error) {
	if e.closed {
		return nil, errClosed
	}
	if !e.state.applied {
		return nil, errors.New("nothing has been applied yet")
	}
	hooks, err := e.auditHooks()
	if err != nil {
		return nil, err
	}
	fronts, err := compare(&e.frontends, e.state.fronts, keyString, whole)
	if err != nil {
		return nil, err
	}
	slots, err := compare(&e.slots, e.wantedSlots(), func(k uint32) string {
		return fmt.Sprintf("slot %d", k)
	}, part) // a slot that no frontend leads to holds anything
	if err != nil {
		return nil, err
	}
	managed, err := compare(&e.managed, e.wantedManaged(), func(cookie uint64) string {
		return fmt.Sprintf("netns cookie %d", cookie)
	}, whole)
	if err != nil {
		return nil, err
	}
	places, err := e.auditPlaces()
	if err != nil {
		return nil, err
	}
	waypoints, err := e.auditHandoff()
	if err != nil {
		return nil, err
	}
	return slices.Concat(hooks, e.auditPins(), fronts, slots, managed, places, waypoints), nil
}

// auditHooks finds the programs that are not attached to the node's cgroup any more.
func (e *Engine) auditHooks() ([]Difference, error) {
	var found []Difference
	for _, h := range e.hooks {
		is, err := e.isAttached(h)
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", h.program, err)
		}
		if !is {
			found = append(found, Difference{Map: Attachments, Entry: h.program, Want: fmt.Sprintf("program %d", h.id)})
		}
	}
	return found, nil
}

func (e *Engine) auditHandoff() ([]Difference, error) {
	names, err := compare(&e.names, e.wantedNames(), func(id uint32) string { return fmt.Sprintf("id %08x", id) }, whole)
	if err != nil {
		return nil, err
	}
	waypoints, err := compare(&e.waypoints, e.wantedPorts(), func(cookie uint64) string {
		return fmt.Sprintf("waypoint of netns cookie %d", cookie)
	}, whole)
	return slices.Concat(names, waypoints), err
}

func (e *Engine) wantedManaged() map[uint64]uint32 {
	want := make(map[uint64]uint32, len(e.enrolled))
	for cookie := range e.enrolled {
		want[cookie] = 0
	}
	return want
}

func (e *Engine) wantedNames() map[uint32]meshName {
	want := map[uint32]meshName{}
	for id := range e.state.lingering {
		want[id] = e.state.names[id]
	}
	for k, v := range e.state.fronts {
		if v.Id != 0 {
			want[v.Id] = nameOf(v.Id, k)
		}
	}
	return want
}

// wantedPorts are the hand-off ports by the netns cookies of waypoints.
func (e *Engine) wantedPorts() map[uint64]uint32 {
	want := map[uint64]uint32{}
	for cookie, s := range e.served {
		want[cookie] = uint32(s.port)
	}
	return want
}

func (e *Engine) auditPlaces() ([]Difference, error) {
	want := e.wantedPlaces()
	for k := range uint32(meshMeshSizePOD_PLACES) {
		if _, taken := want[k]; !taken {
			want[k] = 0
		}
	}
	return compare(&e.pods, want, func(k uint32) string { return fmt.Sprintf("place %d", k) }, whole)
}

func (e *Engine) wantedSlots() map[uint32]meshSlot {
	want := make(map[uint32]meshSlot, e.state.slots)
	seen := map[setID]bool{}
	add := func(sets []*slotSet) {
		for _, set := range sets {
			if e.state.sizes[set.id] == 0 || seen[set.id] {
				continue // no frontend of its service has it, or another service does, too
			}
			seen[set.id] = true
			keys, values := slotsOf(set)
			for i, k := range keys {
				want[k] = values[i]
			}
		}
	}
	for _, c := range e.state.byName {
		add(c.sets)
	}
	for _, w := range e.state.ways {
		for _, set := range w.sets {
			if set != nil {
				add([]*slotSet{set})
			}
		}
	}
	return want
}

// Whether all entries of a map are wanted ones.
const (
	whole = true
	part  = false
)

// inWords names the fields of a map's value, and leaves out what is only its layout.
func inWords(v any) string {
	return strings.ReplaceAll(fmt.Sprintf("%+v", v), "_:{_:{}} ", "")
}

func compare[K, V comparable](t *table[K, V], want map[K]V, name func(K) string, all bool) ([]Difference, error) {
	var found []Difference
	seen := make(map[K]struct{}, len(want))
	err := t.each(func(k K, have V) {
		seen[k] = struct{}{}
		w, ok := want[k]
		switch {
		case !ok && !all:
		case !ok:
			found = append(found, Difference{Map: t.name, Entry: name(k), Have: inWords(have)})
		case w != have:
			found = append(found, Difference{t.name, name(k), inWords(w), inWords(have)})
		}
	})
	for k, w := range want {
		if _, ok := seen[k]; !ok {
			found = append(found, Difference{Map: t.name, Entry: name(k), Want: inWords(w)})
		}
	}
	return found, err
}
