package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/netsim"
)

// The layout of a slot in the engine's map: two outcomes of 16 bytes each, two
// ports of 2 bytes, a threshold and a generation of 4, 4 of padding. A slot
// without a generation is in no set.
const (
	slotBytes    = 48
	firstAddr    = 0
	secondAddr   = 16
	firstPort    = 32
	secondPort   = 34
	thresholdAt  = 36
	generationAt = 40
)

// editSlots rewrites every slot in use on the clients' node.
func editSlots(edit func(slot []byte)) func(context.Context, *netsim.Cluster) error {
	return func(_ context.Context, c *netsim.Cluster) error {
		return eachEntry(c, "slots", func(m *ebpf.Map, key, slot []byte) error {
			if len(slot) != slotBytes {
				return fmt.Errorf("a slot has %d bytes, this spec knows %d", len(slot), slotBytes)
			}
			if nativeU32(slot[generationAt:]) == 0 {
				return nil
			}
			edit(slot)
			return m.Update(key, slot, ebpf.UpdateExist)
		})
	}
}

// eachEntry visits a pinned map of the clients' node.
func eachEntry(c *netsim.Cluster, name string, visit func(m *ebpf.Map, key, value []byte) error) error {
	pins, err := pinsOf(c)
	if err != nil {
		return err
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, name), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	entries := map[string][]byte{}
	var key, value []byte
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		entries[string(key)] = append([]byte(nil), value...)
	}
	if err := iter.Err(); err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("map %s is empty", name)
	}
	for k, v := range entries {
		if err := visit(m, []byte(k), v); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	return nil
}

// sendTo makes every slot lead to one pod.
func sendTo(pod string) func(context.Context, *netsim.Cluster) error {
	return func(ctx context.Context, c *netsim.Cluster) error {
		h, err := c.Pod(pod)
		if err != nil {
			return err
		}
		return editSlots(leadTo(h.IPv4))(ctx, c)
	}
}

// leadTo is an edit that makes a slot lead to an address.
func leadTo(a netip.Addr) func(slot []byte) {
	to := a.As16()
	return func(slot []byte) {
		copy(slot[firstAddr:], to[:])
		copy(slot[secondAddr:], to[:])
	}
}

// fewSlots is more than a small scenario ever uses: sets lie at the beginning.
const fewSlots = 64

// sendFirst makes the first slots in use lead to one pod. It takes no time, unlike a
// walk over the whole map.
func sendFirst(c *netsim.Cluster, pod string) error {
	h, err := c.Pod(pod)
	if err != nil {
		return err
	}
	pins, err := pinsOf(c)
	if err != nil {
		return err
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "slots"), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	lead := leadTo(h.IPv4)
	for i := range uint32(fewSlots) {
		var slot []byte
		if err := m.Lookup(i, &slot); err != nil {
			return err
		}
		if nativeU32(slot[generationAt:]) == 0 {
			continue
		}
		lead(slot)
		if err := m.Put(i, slot); err != nil {
			return err
		}
	}
	return nil
}

// eightyFive makes a 90/10 alias table an 85/15 one: the column that holds both
// outcomes has 20 % of one and 80 % of the other; its border moves to 30 %.
func eightyFive(slot []byte) {
	t := uint64(nativeU32(slot[thresholdAt:]))
	if t < 1<<31 {
		putNativeU32(slot[thresholdAt:], uint32(t+(1<<32)/10))
	} else {
		putNativeU32(slot[thresholdAt:], uint32(t-(1<<32)/10))
	}
}
