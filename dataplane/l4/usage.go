package l4

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Usage is how full one map is.
type Usage struct {
	// Map is one of engine 1.
	Map string
	// Used is the number of entries that the engine wrote, Limit the most that
	// fit. Both are 0 for a map that has no limit or that only programs write.
	Used, Limit uint32
	// Bytes is the kernel memory that the map takes now, as the kernel
	// reports it.
	Bytes uint64
}

// Usage returns the state of all maps.
func (e *Engine) Usage() ([]Usage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	all := []Usage{
		{Map: meshMapManaged, Used: uint32(len(e.enrolled)), Limit: e.limits.Managed},
		{Map: meshMapFrontends, Used: uint32(len(e.state.fronts)), Limit: e.limits.Frontends},
		{Map: meshMapSlots, Used: e.state.slots, Limit: e.limits.Slots},
		{Map: meshMapNames, Used: uint32(len(e.state.names)), Limit: e.limits.Names},
		{Map: meshMapWaypoints, Used: uint32(len(e.served)), Limit: e.limits.Waypoints},
		{Map: meshMapPods},
		{Map: meshMapFlips},
		{Map: meshMapCpus},
		{Map: meshMapOrigins},
		{Map: meshMapSpilled},
		{Map: meshMapUdpFlows},
		{Map: meshMapHandoffs},
		{Map: meshMapAnswers},
		{Map: meshMapLates},
	}
	maps := e.coll.Maps
	if e.unsent != nil {
		all = append(all, Usage{Map: meshMapUnsent})
		maps = withUnsent(maps, e.unsent)
	}
	for i := range all {
		var err error
		if all[i].Bytes, err = mapBytes(maps[all[i].Map]); err != nil {
			return nil, fmt.Errorf("usage of map %s: %w", all[i].Map, err)
		}
	}
	return all, nil
}

func mapBytes(m *ebpf.Map) (uint64, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	bytes, _ := info.Memlock()
	return bytes, nil
}
