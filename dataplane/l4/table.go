package l4

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// table is one hash map of the kernel whose entries only this engine writes.
type table[K, V any] struct {
	name string
	m    *ebpf.Map
	// writes counts the entries that were written or deleted.
	writes uint64
}

// batchSize bounds the buffers of one system call.
const batchSize = 4096

// put writes entries, each atomically.
func (t *table[K, V]) put(keys []K, values []V) error {
	for len(keys) > 0 {
		n := min(len(keys), batchSize)
		if err := t.putBatch(keys[:n], values[:n]); err != nil {
			return fmt.Errorf("write map %s: %w", t.name, explain(err))
		}
		keys, values = keys[n:], values[n:]
	}
	return nil
}

func (t *table[K, V]) putBatch(keys []K, values []V) error {
	if len(keys) > 1 {
		n, err := t.m.BatchUpdate(keys, values, nil)
		t.writes += uint64(max(n, 0))
		if !errors.Is(err, ebpf.ErrNotSupported) { // Linux 5.6
			return err
		}
	}
	for i := range keys {
		if err := t.m.Put(keys[i], values[i]); err != nil {
			return err
		}
		t.writes++
	}
	return nil
}

// remove deletes entries; one that is not there is as good as deleted.
func (t *table[K, V]) remove(keys []K) error {
	for len(keys) > 0 {
		n, err := t.removeSome(keys)
		t.writes += uint64(n)
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			n++ // the batch ended at the missing one
		case err != nil:
			return fmt.Errorf("delete from map %s: %w", t.name, explain(err))
		}
		keys = keys[n:]
	}
	return nil
}

func (t *table[K, V]) removeSome(keys []K) (int, error) {
	if len(keys) > 1 {
		n, err := t.m.BatchDelete(keys[:min(len(keys), batchSize)], nil)
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return max(n, 0), err
		}
	}
	if err := t.m.Delete(keys[0]); err != nil {
		return 0, err
	}
	return 1, nil
}

// each calls f for all entries.
func (t *table[K, V]) each(f func(K, V)) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]K, batchSize), make([]V, batchSize)
	for {
		n, err := t.m.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, ebpf.ErrNotSupported) { // Linux 5.6
			return t.eachSlowly(f)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read map %s: %w", t.name, explain(err))
		}
		for i := range n {
			f(keys[i], values[i])
		}
		if err != nil {
			return nil // the end
		}
	}
}

func (t *table[K, V]) eachSlowly(f func(K, V)) error {
	var k K
	var v V
	entries := t.m.Iterate()
	for entries.Next(&k, &v) {
		f(k, v)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read map %s: %w", t.name, explain(err))
	}
	return nil
}
