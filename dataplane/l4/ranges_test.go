package l4

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Random takes and gives: no two ranges share a slot, none is lost, and what is
// free is in the fewest spans.
func TestRanges(t *testing.T) {
	const all = 1000
	r := rand.New(rand.NewPCG(9, 10))
	slots := newRanges(all)
	var taken []span
	used := make([]bool, all)
	set := func(s span, v bool) {
		for i := s.at; i < s.at+s.n; i++ {
			if used[i] == v {
				t.Fatalf("slot %d of %v is %v twice", i, s, v)
			}
			used[i] = v
		}
	}
	for range 20_000 {
		if len(taken) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(taken))
			set(taken[i], false)
			slots.give(taken[i])
			taken = slices.Delete(taken, i, i+1)
			continue
		}
		n := 1 + r.Uint32N(60)
		at, ok := slots.take(n)
		if ok {
			set(span{at, n}, true)
			taken = append(taken, span{at, n})
		} else if slots.largest() >= n {
			t.Fatalf("%d slots in a row were not found in %v", n, slots.free)
		}
	}
	again := newRanges(all)
	for _, s := range taken {
		if !again.mark(s) {
			t.Fatalf("%v could not be marked", s)
		}
		if again.mark(s) {
			t.Fatalf("%v was marked twice", s)
		}
	}
	if !slices.Equal(again.free, slots.free) {
		t.Errorf("free: %v, marked anew: %v", slots.free, again.free)
	}
	for i := 1; i < len(slots.free); i++ {
		if slots.free[i-1].at+slots.free[i-1].n >= slots.free[i].at {
			t.Errorf("spans touch: %v", slots.free)
		}
	}
	if again.mark(span{all - 1, 2}) {
		t.Error("a range beyond the end was marked")
	}
}
