package l4

import (
	"cmp"
	"slices"
)

// span is a range of slots.
type span struct{ at, n uint32 }

// ranges hands out the free slots of the map, in ranges. The spans are sorted
// and never touch.
type ranges struct{ free []span }

func newRanges(n uint32) *ranges { return &ranges{free: []span{{0, n}}} }

func (r *ranges) clone() *ranges { return &ranges{free: slices.Clone(r.free)} }

// take returns the start of n free slots in a row: of the smallest range that
// has them, so that large ones stay.
func (r *ranges) take(n uint32) (uint32, bool) {
	best := -1
	for i, s := range r.free {
		if s.n >= n && (best < 0 || s.n < r.free[best].n) {
			best = i
		}
	}
	if best < 0 {
		return 0, false
	}
	at := r.free[best].at
	r.carve(best, span{at, n})
	return at, true
}

// mark takes a known range, which must be free.
func (r *ranges) mark(used span) bool {
	i, found := slices.BinarySearchFunc(r.free, used.at, func(s span, at uint32) int { return cmp.Compare(s.at, at) })
	if !found {
		i--
	}
	if i < 0 || uint64(used.at)+uint64(used.n) > uint64(r.free[i].at)+uint64(r.free[i].n) {
		return false
	}
	r.carve(i, used)
	return true
}

// carve cuts a range out of span i, which holds it.
func (r *ranges) carve(i int, used span) {
	s := r.free[i]
	var rest []span
	if used.at > s.at {
		rest = append(rest, span{s.at, used.at - s.at})
	}
	if end := used.at + used.n; end < s.at+s.n {
		rest = append(rest, span{end, s.at + s.n - end})
	}
	r.free = slices.Replace(r.free, i, i+1, rest...)
}

// give makes a range free again, and one with its neighbours.
func (r *ranges) give(s span) {
	i, _ := slices.BinarySearchFunc(r.free, s.at, func(f span, at uint32) int { return cmp.Compare(f.at, at) })
	r.free = slices.Insert(r.free, i, s)
	if i+1 < len(r.free) && s.at+s.n == r.free[i+1].at {
		r.free[i].n += r.free[i+1].n
		r.free = slices.Delete(r.free, i+1, i+2)
	}
	if i > 0 && r.free[i-1].at+r.free[i-1].n == s.at {
		r.free[i-1].n += r.free[i].n
		r.free = slices.Delete(r.free, i, i+1)
	}
}

// largest is the longest row of free slots.
func (r *ranges) largest() uint32 {
	var n uint32
	for _, s := range r.free {
		n = max(n, s.n)
	}
	return n
}
