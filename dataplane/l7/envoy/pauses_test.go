package envoy

import (
	"slices"
	"testing"
	"time"
)

// after are the pauses after ends, each so long after the one before.
func after(served bool, gaps ...time.Duration) []time.Duration {
	var p pauses
	var got []time.Duration
	now := time.Unix(1, 0)
	for _, gap := range gaps {
		now = now.Add(gap)
		got = append(got, p.next(now, served))
	}
	return got
}

func TestPausesBeforeAStart(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for name, c := range map[string]struct {
		served     bool
		gaps, want []time.Duration
	}{
		"one that serves and is killed now and then": {true, []time.Duration{0, s, s, 11 * s, s}, []time.Duration{0, 0, 0, 0, 0}},
		"one that ends again and again": {
			true, []time.Duration{0, s, s, s, s, s, s, s, s, s, s},
			[]time.Duration{0, 0, 0, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5 * s, 5 * s},
		},
		"one that ended often, and then seldom": {
			true, []time.Duration{0, 0, 0, 0, 0, 11 * s, 0, 0, 0},
			[]time.Duration{0, 0, 0, 100 * ms, 200 * ms, 0, 0, 0, 100 * ms},
		},
		"one that does not get so far as to serve": {
			false, []time.Duration{0, 11 * s, 11 * s}, []time.Duration{100 * ms, 200 * ms, 400 * ms},
		},
	} {
		if got := after(c.served, c.gaps...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
