package xds

import "slices"

// list is values by name in an order that stays: what changes takes its old place,
// so that an engine that compares with the last list finds little to look at.
type list[T any] struct {
	at     map[string]int
	names  []string
	values []*T // nil: taken away, until the next compaction
	gone   int
}

func newList[T any]() *list[T] { return &list[T]{at: map[string]int{}} }

func (l *list[T]) set(name string, v *T) {
	if i, ok := l.at[name]; ok {
		l.values[i] = v
		return
	}
	l.at[name] = len(l.values)
	l.names, l.values = append(l.names, name), append(l.values, v)
}

func (l *list[T]) get(name string) *T {
	if i, ok := l.at[name]; ok {
		return l.values[i]
	}
	return nil
}

func (l *list[T]) remove(name string) {
	i, ok := l.at[name]
	if !ok {
		return
	}
	delete(l.at, name)
	l.values[i] = nil
	l.gone++
}

// all returns a copy that the list never changes.
func (l *list[T]) all() []*T {
	if l.gone > 0 {
		l.compact()
	}
	return slices.Clone(l.values)
}

func (l *list[T]) compact() {
	names, values := l.names[:0], l.values[:0]
	for i, v := range l.values {
		if v == nil {
			continue
		}
		l.at[l.names[i]] = len(values)
		names, values = append(names, l.names[i]), append(values, v)
	}
	clear(l.values[len(values):])
	l.names, l.values, l.gone = names, values, 0
}
