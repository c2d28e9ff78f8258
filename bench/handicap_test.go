package bench

import (
	"slices"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
)

// TestHandicapIsFound slows one variant by a known time: no request of it is faster than
// that, the others' are, and a comparison with a run without it names the variant alone.
func TestHandicapIsFound(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF, kernel.TCX)
	const delay = time.Millisecond
	p := tiny()
	p.Variants, p.Modes = []plan.Variant{plan.Direct, plan.DirectAA, plan.L4}, []plan.Mode{plan.Closed}
	p.Blocks, p.Duration = 6, 150*time.Millisecond
	before := measured(t, p)
	p.Handicap = &plan.Handicap{Variant: plan.L4, Delay: delay}
	slow := measured(t, p)
	for _, trial := range runAt(t, slow).Trials {
		all := samplesOf(t, slow, trial)
		if fastest := slices.MinFunc(all, byLatency).Latency; trial.Variant == plan.L4 && fastest < delay {
			t.Errorf("%s: a request took %v, delayed by %v", trial, fastest, delay)
		}
	}
	c, err := Compare(before, slow)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range c.Changes {
		t.Logf("%s %s: %+v, floor %+v, p %.3g, %s", x.Cell, x.Measure, x.Change, x.Floor, x.HolmP, x.Moved)
	}
	if m := disturbance(t, before, slow); m > delay/4 {
		t.Skipf("NOT RUN: the machine is too busy for a comparison: the middle of a trial that nothing slowed is up to %v from the others'", m)
	}
	worse := c.Worse()
	i := slices.IndexFunc(worse, func(x result.Change) bool { return x.Variant == plan.L4 && x.Measure == result.MeasureP50 })
	if i < 0 || c.Verdict != report.Fail {
		t.Errorf("verdict %s, worse: %+v", c.Verdict, worse)
	}
}

func measured(t *testing.T, p plan.Plan) (path string) {
	t.Helper()
	path, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: OpenNetsim})
	if err != nil || !s.Complete {
		t.Fatalf("complete %v, %v", s.Complete, err)
	}
	return path
}

func samplesOf(t *testing.T, path string, trial result.Trial) []load.Sample {
	t.Helper()
	all, err := runAt(t, path).Samples(trial)
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %d samples, %v", trial, len(all), err)
	}
	return all
}

func byLatency(a, b load.Sample) int { return int(a.Latency - b.Latency) }

// disturbance is how far apart the middle requests of the trials are that nothing slowed.
func disturbance(t *testing.T, paths ...string) time.Duration {
	t.Helper()
	var middles []time.Duration
	for _, path := range paths {
		run := runAt(t, path)
		for _, trial := range run.Trials {
			if h := run.Head.Plan.Handicap; h != nil && h.Variant == trial.Variant {
				continue
			}
			all := samplesOf(t, path, trial)
			slices.SortFunc(all, byLatency)
			middles = append(middles, all[len(all)/2].Latency)
		}
	}
	return slices.Max(middles) - slices.Min(middles)
}
