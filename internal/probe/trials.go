package probe

import (
	"fmt"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Trials loads each program of the judge alone and attaches it for a moment,
// where nobody is watched. Nothing stays.
func Trials() ([]kernel.Trial, error) {
	o, err := Options{UDP: true}.normalize()
	if err != nil {
		return nil, err
	}
	objects, err := newObjects(o)
	if err != nil {
		return nil, err
	}
	defer objects.Close()
	trials, err := kernel.TryPrograms(objects.spec)
	if err != nil {
		return nil, fmt.Errorf("try the judge's programs: %w", err)
	}
	return trials, nil
}

// Kinds are all kinds of events, in the order of a connection's life.
func Kinds() []Kind {
	all := make([]Kind, kinds)
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}
