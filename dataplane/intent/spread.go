package intent

import (
	"net/netip"
	"slices"
)

// spread puts all addresses of workloads that are known by a hostname in the place
// of their first. Weights are multiplied where that is needed to divide one
// evenly; their proportions stay.
func spread(targets []Target, v6 bool) []Target {
	factor := uint64(1)
	for _, t := range targets {
		factor = multiple(factor, t.parts(v6))
	}
	if factor == 1 && !slices.ContainsFunc(targets, Target.named) {
		return targets
	}
	var all []Target
	var weights []uint64
	for _, t := range targets {
		parts := t.parts(v6)
		if parts == 1 {
			all, weights = append(all, t), append(weights, uint64(t.Weight)*factor)
			continue
		}
		for _, a := range t.Workload.Addresses {
			if a.Is6() != v6 {
				continue
			}
			one := t
			one.Addr = netip.AddrPortFrom(a, t.Addr.Port())
			all, weights = append(all, one), append(weights, uint64(t.Weight)*factor/parts)
		}
	}
	fit(all, weights)
	return all
}

func (t Target) named() bool { return t.Workload.Hostname != "" }

// parts is over how many addresses a target's weight is spread, at least 1.
func (t Target) parts(v6 bool) uint64 {
	if !t.named() {
		return 1
	}
	n := uint64(0)
	for _, a := range t.Workload.Addresses {
		if a.Is6() == v6 {
			n++
		}
	}
	return n
}

// mostFactor keeps a weight of 32 bits times the factor within 64 bits. Where names
// with many different numbers of addresses would need more, shares are a little
// uneven.
const mostFactor = 1 << 24

// multiple is the least common multiple of two numbers, or a where that is too
// large.
func multiple(a, b uint64) uint64 {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	if m := a / x * b; m <= mostFactor {
		return m
	}
	return a
}

// fit gives targets their weights, all divided by the same power of two where the
// largest has no place in 32 bits.
func fit(targets []Target, weights []uint64) {
	shift := 0
	for slices.Max(weights)>>shift > 1<<32-1 {
		shift++
	}
	for i, w := range weights {
		targets[i].Weight = uint32(max(1, w>>shift))
	}
}
