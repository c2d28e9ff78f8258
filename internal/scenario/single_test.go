package scenario

import (
	"testing"

	"github.com/duomesh/duomesh/internal/report"
)

func TestSingleKeepsEveryScenarioValid(t *testing.T) {
	for _, s := range All() {
		small := Single(s)
		if err := small.Validate(); err != nil {
			t.Error(err)
		}
		for i, ph := range small.Phases {
			for j, l := range ph.Loads {
				if l.Connections != singles*len(l.From) || !l.Want.Unweighed {
					t.Errorf("scenario %s: phase %d: load %d is not small: %+v", s.Name, i+1, j+1, l)
				}
				if before := s.Phases[i].Loads[j]; before.Want.Unweighed || before.Then != nil && before.Then.Unweighed {
					t.Errorf("scenario %s itself was changed", s.Name)
				}
			}
		}
	}
}

func TestCheckExact(t *testing.T) {
	want := map[string]float64{"often": 0.9, "rarely": 0.1, "never": 0}
	verdict := func(got map[string]int) report.Verdict {
		v := report.Pass
		for _, c := range CheckExact("x", want, got) {
			v = v.Worse(c.Verdict)
		}
		return v
	}
	if v := verdict(map[string]int{"rarely": 4}); v != report.Pass {
		t.Errorf("shares between 0 and 1 are judged: %s", v)
	}
	for _, pod := range []string{"never", "unknown"} {
		if v := verdict(map[string]int{"often": 3, pod: 1}); v != report.Fail {
			t.Errorf("a connection of %s: %s, want fail", pod, v)
		}
	}
}
