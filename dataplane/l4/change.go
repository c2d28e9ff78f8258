package l4

// change is how a list of a Snapshot differs from that of the last one. Values
// are told apart by their pointers: they are immutable.
type change[T any] struct {
	next        []*T
	gone, added []*T
	// moved is set when the lists are not the same pointers in the same order.
	moved bool
}

// changeOf costs next to nothing where both lists begin and end alike: only what
// lies between is looked up.
func changeOf[T any](last, next []*T) change[T] {
	c := change[T]{next: next}
	same := 0
	for same < len(last) && same < len(next) && last[same] == next[same] {
		same++
	}
	last, next = last[same:], next[same:]
	for len(last) > 0 && len(next) > 0 && last[len(last)-1] == next[len(next)-1] {
		last, next = last[:len(last)-1], next[:len(next)-1]
	}
	c.moved = len(last)+len(next) > 0
	c.added = without(next, last)
	c.gone = without(last, next)
	return c
}

// without returns the values of list that are not in other, or more often.
func without[T any](list, other []*T) []*T {
	if len(other) == 0 {
		return list
	}
	counts := make(map[*T]int, len(other))
	for _, v := range other {
		counts[v]++
	}
	var left []*T
	for _, v := range list {
		if counts[v]--; counts[v] < 0 {
			left = append(left, v)
		}
	}
	return left
}

// list is what to compare the next Snapshot with. It is the Snapshot's own: a copy
// would be most of what an Apply of one change allocates.
func (c change[T]) list(last []*T) []*T {
	if !c.moved {
		return last
	}
	return c.next
}

// twice is true when a value that was added has the key of another one; had says
// which keys the last list has.
func (c change[T]) twice(key func(*T) string, had func(string) bool) bool {
	taken := make(map[string]bool, len(c.gone)+len(c.added))
	for _, v := range c.gone {
		taken[key(v)] = false
	}
	for _, v := range c.added {
		k := key(v)
		is, known := taken[k]
		if is || !known && had(k) {
			return true
		}
		taken[k] = true
	}
	return false
}
