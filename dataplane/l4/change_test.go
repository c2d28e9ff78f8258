package l4

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// The change between any two lists is what a count of both says, and a key that
// is there twice is seen, wherever it came from.
func TestChangeOfLists(t *testing.T) {
	type value struct{ key string }
	key := func(v *value) string { return v.key }
	r := rand.New(rand.NewPCG(1, 2))
	pool := make([]*value, 12)
	for i := range pool {
		pool[i] = &value{itoa(i % 8)} // some share a key
	}
	var last []*value
	had := map[string]bool{}
	refused := 0
	for range 20_000 {
		next := mutate(r, last, pool)
		c := changeOf(last, next)
		if got := apart(last, c.gone, c.added); !equalCounts(got, next) {
			t.Fatalf("from %v to %v: gone %v, added %v", last, next, c.gone, c.added)
		}
		if c.moved == slices.Equal(last, next) {
			t.Fatalf("from %v to %v: moved %v", last, next, c.moved)
		}
		keys := map[string]bool{}
		for _, v := range next {
			keys[v.key] = true
		}
		twice := c.twice(key, func(k string) bool { return had[k] })
		if twice != (len(keys) < len(next)) {
			t.Fatalf("from %v to %v: twice %v", last, next, twice)
		}
		if twice {
			refused++
			continue // no such list is ever adopted
		}
		if last, had = c.list(last), keys; !slices.Equal(last, next) {
			t.Fatalf("adopted %v, want %v", last, next)
		}
	}
	if refused == 0 {
		t.Error("no key was ever there twice: it was not tested")
	}
}

// mutate removes, replaces, inserts and swaps.
func mutate[T any](r *rand.Rand, list, pool []*T) []*T {
	next := slices.Clone(list)
	for range r.IntN(4) {
		v, at := pool[r.IntN(len(pool))], r.IntN(len(next)+1)
		switch r.IntN(4) {
		case 0:
			next = slices.Insert(next, at, v)
		case 1:
			next = slices.Delete(next, min(at, len(next)), min(at+1+r.IntN(3), len(next)))
		case 2:
			if at < len(next) {
				next[at] = v
			}
		case 3:
			if at < len(next) {
				next[at], next[0] = next[0], next[at]
			}
		}
	}
	return next
}

// apart is a list without those that are gone, and with those that were added.
func apart[T any](list, gone, added []*T) []*T {
	left := slices.Clone(list)
	for _, g := range gone {
		if i := slices.Index(left, g); i >= 0 {
			left = slices.Delete(left, i, i+1)
		} else {
			left = append(left, nil) // gone without having been there
		}
	}
	return append(left, added...)
}

func equalCounts[T comparable](a, b []T) bool {
	counts := map[T]int{}
	for _, v := range a {
		counts[v]++
	}
	for _, v := range b {
		counts[v]--
	}
	for _, n := range counts {
		if n != 0 {
			return false
		}
	}
	return true
}
