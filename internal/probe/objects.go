package probe

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/internal/kernel"
)

//go:generate go tool bpf2go -tags linux -target bpfel -cc clang-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3" -type event -type event_kind -type hook -type counter -type link_key -type link_value -type wire_key -type wire_value -type named_key probe ../../bpf/probe/probe.bpf.c -- -I../../bpf/include

// objects owns the maps that all programs of one Probe share, and loads programs
// one provider at a time.
type objects struct {
	spec *ebpf.CollectionSpec
	maps probeMaps
}

func newObjects(o Options) (*objects, error) {
	spec, err := loadProbe()
	if err != nil {
		return nil, fmt.Errorf("read the judge's programs: %w", err)
	}
	spec.Maps[probeMapEvents].MaxEntries = uint32(o.RingBytes)
	spec.Maps[probeMapWire].MaxEntries = o.WireEntries
	if err := spec.Variables[probeVarCfgUdp].Set(o.UDP); err != nil {
		return nil, fmt.Errorf("set %s: %w", probeVarCfgUdp, err)
	}
	if err := setArgumentOffsets(spec); err != nil {
		return nil, err
	}
	obj := &objects{spec: spec}
	if err := spec.LoadAndAssign(&obj.maps, nil); err != nil {
		return nil, fmt.Errorf("make the judge's maps: %w", err)
	}
	return obj, nil
}

// load loads the programs that the fields of into name, a pointer to a struct as
// [ebpf.CollectionSpec.LoadAndAssign] takes it, and no other.
func (o *objects) load(into any) error {
	return o.spec.Copy().LoadAndAssign(into, &ebpf.CollectionOptions{
		MapReplacements: o.shared(), Cache: kernel.Types(),
	})
}

// shared are the maps by name.
func (o *objects) shared() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		probeMapClasses:  o.maps.Classes,
		probeMapCounters: o.maps.Counters,
		probeMapEvents:   o.maps.Events,
		probeMapLinks:    o.maps.Links,
		probeMapNamed:    o.maps.Named,
		probeMapRingFull: o.maps.RingFull,
		probeMapTaken:    o.maps.Taken,
		probeMapWatched:  o.maps.Watched,
		probeMapWire:     o.maps.Wire,
	}
}

// name makes UDP destinations count by their port.
func (o *objects) name(to []netip.AddrPort) error {
	for _, a := range to {
		var key probeNamedKey
		key.Dst, key.Dport = wordsOf(a)
		if err := o.maps.Named.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("write %s to map %s: %w", a, probeMapNamed, err)
		}
	}
	return nil
}

func (o *objects) Close() error { return o.maps.Close() }
