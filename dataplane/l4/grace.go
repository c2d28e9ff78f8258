package l4

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// grace waits until every program run that may hold a value read from a map
// before the call has ended.
//
// It replaces the one element of a map of maps. The kernel answers such a
// system call only after synchronize_rcu(), so that whoever removed an inner map
// knows that no program uses it (kernel/bpf/syscall.c, maybe_wait_bpf_programs,
// Linux 4.20). Programs on cgroup hooks are not sleepable: each run lies inside
// one RCU read-side section (bpf_prog_run_array_cg), which is what the wait is
// for.
type grace struct {
	outer, inner *ebpf.Map
}

func newGrace() (_ *grace, err error) {
	g := new(grace)
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	one := &ebpf.MapSpec{Name: "mesh_epoch", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	if g.inner, err = ebpf.NewMap(one); err != nil {
		return nil, fmt.Errorf("make inner map of grace periods: %w", explain(err))
	}
	g.outer, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "mesh_grace", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: one,
	})
	if err != nil {
		return nil, fmt.Errorf("make map of grace periods: %w", explain(err))
	}
	return g, nil
}

func (g *grace) wait() error {
	if err := g.outer.Put(uint32(0), g.inner); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

// Close frees both maps.
func (g *grace) Close() error { return errors.Join(g.outer.Close(), g.inner.Close()) }
