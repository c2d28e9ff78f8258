package scenario

import (
	"reflect"
	"testing"

	"github.com/duomesh/duomesh/internal/report"
)

func TestSingleKeepsEveryScenarioValid(t *testing.T) {
	untouched := All()
	for n, s := range All() {
		small := Single(s)
		if !reflect.DeepEqual(s, untouched[n]) {
			t.Errorf("scenario %s itself was changed", s.Name)
		}
		if err := small.Validate(); err != nil {
			t.Error(err)
		}
		loads := 0
		for i, ph := range small.Phases {
			for j, l := range ph.Loads {
				loads++
				if l.Connections != singles*len(l.From) || !l.Want.Unweighed || len(l.Want.Replicas) > 0 || l.Then != nil {
					t.Errorf("scenario %s: phase %d: load %d is not small: %+v", s.Name, i+1, j+1, l)
				}
			}
		}
		want := 0
		for _, ph := range s.Phases {
			want += len(ph.Loads)
			if len(ph.During) > 0 {
				want += len(ph.Loads)
			}
		}
		if loads != want {
			t.Errorf("scenario %s: %d loads, want %d", s.Name, loads, want)
		}
	}
}

func TestSmallPhases(t *testing.T) {
	before, during := []Action{Enrol{"a"}}, []Action{Leave{"a"}}
	ph := Phase{Before: before, Loads: make([]Load, 2*atOnce+1), During: during}
	ph.Loads[0] = Load{Want: Want{Outcome: Connected}, Then: &Want{Outcome: RefusedByMesh}}
	got := ph.small()
	if len(got) != 6 || len(got[2].Loads) != 1 {
		t.Fatalf("%d phases, want 3 before the change and 3 after", len(got))
	}
	if got[0].Before[0] != before[0] || got[1].Before != nil || got[3].Before[0] != during[0] || got[0].During != nil {
		t.Errorf("actions are not where they belong: %+v", got)
	}
	if got[0].Loads[0].Want.Outcome != Connected || got[3].Loads[0].Want.Outcome != RefusedByMesh {
		t.Errorf("wants are not where they belong: %+v, %+v", got[0].Loads[0], got[3].Loads[0])
	}
}

// A churn stays one, with each of its states and the end of each agent, and the
// scenario's own is not changed.
func TestSmallChurn(t *testing.T) {
	own := Churn{Between: make([]Objects, 4), Changes: 400, PerSecond: 100, Kill: []string{"a"}, KillEvery: 150, Through: true}
	all := []Action{own, Enrol{"a"}}
	got := smaller(all)
	c := got[0].(Churn)
	if c.Changes != smallChanges || c.Changes < len(own.Between) || c.Changes/c.KillEvery != 1 {
		t.Errorf("%d changes, agents ended every %d", c.Changes, c.KillEvery)
	}
	c.Changes, c.KillEvery = own.Changes, own.KillEvery
	if !reflect.DeepEqual(c, own) || !reflect.DeepEqual(all[0], Action(own)) || got[1] != all[1] {
		t.Errorf("something else was changed: %+v, %+v", got, all)
	}
	if c := (Churn{Changes: 3}).small(); c.Changes != 3 || c.KillEvery != 0 {
		t.Errorf("a churn that is small already: %+v", c)
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
