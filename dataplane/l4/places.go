package l4

// The map pods has the cookies of the map managed again, in the form that a
// program reads fastest: by their low bits.

// placeShared is POD_PLACE_SHARED of bpf/mesh/abi.h.
const placeShared = 1<<64 - 1

func placeOf(cookie uint64) uint32 { return uint32(cookie % uint64(meshMeshSizePOD_PLACES)) }

// wantedPlaces is what pods must hold; places that are left out hold 0.
func (e *Engine) wantedPlaces() map[uint32]uint64 {
	want := make(map[uint32]uint64, len(e.enrolled))
	for cookie := range e.enrolled {
		k := placeOf(cookie)
		if want[k] != 0 {
			want[k] = placeShared
		} else {
			want[k] = cookie
		}
	}
	return want
}

// place writes the place on which a cookie falls.
func (e *Engine) place(cookie uint64) error {
	k := placeOf(cookie)
	return e.pods.put([]uint32{k}, []uint64{e.wantedPlaces()[k]})
}

// replace makes all places what they must be: a process that was killed may have
// written one of the two maps only.
func (e *Engine) replace() error {
	want := e.wantedPlaces()
	var keys []uint32
	var values []uint64
	err := e.pods.each(func(k uint32, have uint64) {
		if have != want[k] {
			keys, values = append(keys, k), append(values, want[k])
		}
	})
	if err != nil {
		return err
	}
	return e.pods.put(keys, values)
}
