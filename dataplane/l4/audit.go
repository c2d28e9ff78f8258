package l4

import (
	"errors"
	"fmt"
	"slices"
)

// Difference is an entry of the kernel that is not what the engine wrote.
type Difference struct {
	// Map is the map's name, as in Usage.
	Map string
	// Entry names the key, for example "10.0.0.1:80/TCP".
	Entry string
	// Want and Have are the values as text, "" for an entry that is not there.
	Want, Have string
}

// String is one line for people.
func (d Difference) String() string {
	return fmt.Sprintf("map %s, entry %s: want %q, have %q", d.Map, d.Entry, d.Want, d.Have)
}

// Audit compares all entries of the kernel's maps with the applied Snapshot and
// the enrolled pods. It needs an Apply before.
func (e *Engine) Audit() ([]Difference, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	if !e.state.applied {
		return nil, errors.New("audit: nothing has been applied yet")
	}
	fronts, err := compare(&e.frontends, e.state.fronts, keyString, whole)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	slots, err := compare(&e.slots, e.wantedSlots(), func(k uint32) string {
		return fmt.Sprintf("slot %d", k)
	}, part) // a slot that no frontend leads to holds anything
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	pods := make(map[uint64]uint32, len(e.enrolled))
	for cookie := range e.enrolled {
		pods[cookie] = 0
	}
	managed, err := compare(&e.managed, pods, func(cookie uint64) string {
		return fmt.Sprintf("netns cookie %d", cookie)
	}, whole)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	places, err := e.auditPlaces()
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	waypoints, err := e.auditHandoff()
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return slices.Concat(fronts, slots, managed, places, waypoints), nil
}

func (e *Engine) auditHandoff() ([]Difference, error) {
	want := map[uint32]meshName{}
	for id := range e.state.lingering {
		want[id] = e.state.names[id]
	}
	for k, v := range e.state.fronts {
		if v.Id != 0 {
			want[v.Id] = nameOf(v.Id, k)
		}
	}
	names, err := compare(&e.names, want, func(id uint32) string { return fmt.Sprintf("id %08x", id) }, whole)
	if err != nil {
		return nil, err
	}
	ports := map[uint64]uint32{}
	for cookie, s := range e.served {
		ports[cookie] = uint32(s.port)
	}
	waypoints, err := compare(&e.waypoints, ports, func(cookie uint64) string {
		return fmt.Sprintf("waypoint of netns cookie %d", cookie)
	}, whole)
	return slices.Concat(names, waypoints), err
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
	for _, c := range e.state.uids {
		if c != nil {
			add(c.sets)
		}
	}
	return want
}

// Whether all entries of a map are wanted ones.
const (
	whole = true
	part  = false
)

func compare[K, V comparable](t *table[K, V], want map[K]V, name func(K) string, all bool) ([]Difference, error) {
	var found []Difference
	seen := make(map[K]struct{}, len(want))
	err := t.each(func(k K, have V) {
		seen[k] = struct{}{}
		w, ok := want[k]
		switch {
		case !ok && !all:
		case !ok:
			found = append(found, Difference{Map: t.name, Entry: name(k), Have: fmt.Sprint(have)})
		case w != have:
			found = append(found, Difference{t.name, name(k), fmt.Sprint(w), fmt.Sprint(have)})
		}
	})
	for k, w := range want {
		if _, ok := seen[k]; !ok {
			found = append(found, Difference{Map: t.name, Entry: name(k), Want: fmt.Sprint(w)})
		}
	}
	return found, err
}
