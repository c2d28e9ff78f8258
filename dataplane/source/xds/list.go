package xds

import "slices"

// list is values in an order that stays: what changes takes its old place, so that
// an engine that compares with the last list finds little to look at.
type list[T any] struct {
	values []*T // nil: a free place
	free   []place
}

// place is where a value stands in a list, counted from 1; 0 is nowhere.
type place int

// put puts a value at its place, and gives it one when it has none.
func (l *list[T]) put(at *place, v *T) {
	switch {
	case *at != 0:
	case len(l.free) > 0:
		*at = l.free[len(l.free)-1]
		l.free = l.free[:len(l.free)-1]
	default:
		l.values = append(l.values, nil)
		*at = place(len(l.values))
	}
	l.values[*at-1] = v
}

func (l *list[T]) remove(at *place) {
	if *at == 0 {
		return
	}
	l.values[*at-1] = nil
	l.free = append(l.free, *at)
	*at = 0
}

// all returns a copy that the list never changes.
func (l *list[T]) all() []*T {
	if len(l.free) == 0 {
		return slices.Clone(l.values)
	}
	all := make([]*T, 0, len(l.values)-len(l.free))
	for _, v := range l.values {
		if v != nil {
			all = append(all, v)
		}
	}
	return all
}
