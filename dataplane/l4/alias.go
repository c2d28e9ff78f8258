package l4

import (
	"cmp"
	"math/bits"
	"slices"
)

// target is one endpoint of a set.
type target struct {
	addr   [4]uint32
	port   uint16 // network byte order; 0: the frontend's
	weight uint32 // never 0
}

// compare is the order of a set's targets. It need be no order of addresses, only
// the one in which the programs compare words.
func (t target) compare(o target) int {
	return cmp.Or(slices.Compare(t.addr[:], o.addr[:]), cmp.Compare(t.port, o.port), cmp.Compare(t.weight, o.weight))
}

// aliasTable spreads targets over as many columns, so that a column chosen
// evenly, and one of its two outcomes chosen by its threshold, give each target
// with probability weight / total; the first outcome of column i is target i. The method is Vose's (IEEE Trans. Software
// Eng. 17(9), 1991), in integers: each target's probability is off by less than
// 2^-32, whatever the weights.
func aliasTable(targets []target) []meshSlot {
	n := uint64(len(targets))
	var total uint64
	for _, t := range targets {
		total += uint64(t.weight)
	}
	// mass[i] is weight i times n; an even column holds total.
	mass := make([]uint64, n)
	var small, large []uint32
	for i, t := range targets {
		mass[i] = uint64(t.weight) * n
		if mass[i] < total {
			small = append(small, uint32(i))
		} else {
			large = append(large, uint32(i))
		}
	}
	columns := make([]meshSlot, n)
	for len(small) > 0 {
		// Integers leave no rest: while a column is short, another is over.
		i, j := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		columns[i] = column(targets[i], targets[j], mass[i], total)
		mass[j] -= total - mass[i]
		if mass[j] < total {
			large = large[:len(large)-1]
			small = append(small, j)
		}
	}
	for _, i := range large {
		columns[i] = column(targets[i], targets[i], total, total)
	}
	return columns
}

// column gives first the share mass / total, rounded to 2^-32.
func column(first, second target, mass, total uint64) meshSlot {
	high, low := bits.Mul64(mass, 1<<32)
	low, carry := bits.Add64(low, total/2, 0)
	threshold, _ := bits.Div64(high+carry, low, total)
	if threshold >= 1<<32 {
		threshold, second = 0, first
	}
	return meshSlot{
		First: first.addr, FirstPort: first.port,
		Second: second.addr, SecondPort: second.port,
		Threshold: uint32(threshold),
	}
}
