package xds

// marks is a set that keeps the order in which its members came. It may grow while
// it is walked through. The zero value is empty.
type marks[T comparable] struct {
	in    map[T]struct{}
	order []T
}

func (m *marks[T]) add(v T) {
	if _, is := m.in[v]; is {
		return
	}
	if m.in == nil {
		m.in = map[T]struct{}{}
	}
	m.in[v] = struct{}{}
	m.order = append(m.order, v)
}

func (m *marks[T]) each(f func(T)) {
	for i := 0; i < len(m.order); i++ {
		f(m.order[i])
	}
}

// clear forgets all, and the memory of a large set, too.
func (m *marks[T]) clear() { *m = marks[T]{} }
