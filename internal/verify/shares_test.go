package verify

import (
	"testing"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// Requests that no weight shares go where fewer are outstanding: a busy endpoint answers
// fewer. One that answers none, or that has left and answers, is none the less a fault.
func TestRequestsThatNoWeightShares(t *testing.T) {
	either := scenario.Want{Split: map[string]float64{"v1": .5, "v2": .5}}
	unweighed := either
	unweighed.Unweighed = true
	left := scenario.Want{Split: map[string]float64{"v1": 1}, Unweighed: true}
	for name, c := range map[string]struct {
		want scenario.Want
		got  map[string]int
		fail bool
	}{
		"a busy endpoint":            {unweighed, map[string]int{"v1": 3892, "v2": 4380}, false},
		"… against a declared share": {either, map[string]int{"v1": 3892, "v2": 4380}, true},
		"one that answers none":      {unweighed, map[string]int{"v2": 8272}, true},
		"one nobody declared":        {unweighed, map[string]int{"v1": 4000, "v2": 4000, "v3": 1}, true},
		"one that has left":          {left, map[string]int{"v1": 7999, "v2": 1}, true},
		"the one that stays":         {left, map[string]int{"v1": 8000}, false},
	} {
		t.Run(name, func(t *testing.T) {
			failed := false
			for _, check := range shares("requests:", c.want, c.got) {
				failed = failed || check.Verdict == report.Fail
			}
			if failed != c.fail {
				t.Errorf("failed %v, want %v: %+v", failed, c.fail, shares("requests:", c.want, c.got))
			}
		})
	}
}
