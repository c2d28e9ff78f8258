package result

import (
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
)

// slower is a run in which every request of a variant takes longer.
func slower(r Run, v plan.Variant, by time.Duration, seed uint64) Run {
	samples := r.Samples
	r.Samples = func(t Trial) ([]load.Sample, error) {
		t.Order += int(seed) // other requests than in the other run
		all, err := samples(t)
		if t.Variant == v {
			for i := range all {
				all[i].Latency += by
			}
		}
		return all, err
	}
	return r
}

// TestSameCommitTwice: two runs that differ in nothing but chance.
func TestSameCommitTwice(t *testing.T) {
	c, err := Compare(synthetic(8, nil), slower(synthetic(8, nil), plan.L4, 0, 100))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Changes) != 22 || len(c.Worse()) > 0 || len(c.Left) > 0 { // fixed has three measures, the others four
		t.Errorf("%d changes, worse: %+v", len(c.Changes), c.Worse())
	}
}

// TestKnownSlowness: 50 µs more are found, in that variant alone, and the interval
// holds them.
func TestKnownSlowness(t *testing.T) {
	c, err := Compare(synthetic(8, nil), slower(synthetic(8, nil), plan.L4, 50*time.Microsecond, 100))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range c.Changes {
		slow := x.Variant == plan.L4 && (x.Measure == MeasureP50 || x.Measure == MeasureP99)
		if (x.Moved == stats.Higher) != slow || slow && (x.HolmP >= MayBeChance || !x.Change.Contains(50)) {
			t.Errorf("%s %s: %s, %+v before %+v", x.Cell, x.Measure, x.Moved, x.Change, x.Floor)
		}
	}
	back, err := Compare(slower(synthetic(8, nil), plan.L4, 50*time.Microsecond, 100), synthetic(8, nil))
	if err != nil || len(back.Worse()) > 0 {
		t.Errorf("what became faster is called worse: %+v, %v", back.Worse(), err)
	}
}

func TestRunsThatMayNotBeCompared(t *testing.T) {
	other := synthetic(6, nil)
	other.Head.Environment.CPU, other.Head.Plan.Load.PerSecond = "another", 100
	_, err := Compare(synthetic(6, nil), other)
	if err == nil || !strings.Contains(err.Error(), "processor") || !strings.Contains(err.Error(), "load") {
		t.Errorf("%v", err)
	}
}

// TestCellsOfOneRunAlone are named and not compared.
func TestCellsOfOneRunAlone(t *testing.T) {
	c, err := Compare(synthetic(6, nil), withAmbient(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range c.Changes {
		if x.Variant != plan.L4 || x.Mode != plan.Closed {
			t.Errorf("compared: %s", x.Cell)
		}
	}
	if len(c.Changes) != 4 || len(c.Left) == 0 {
		t.Errorf("%d changes, left %v", len(c.Changes), c.Left)
	}
}
