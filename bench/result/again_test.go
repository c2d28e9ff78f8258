package result

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/internal/report"
)

// many is a run with the rows that are noisier than direct, of one machine on one day:
// what it does to each trial follows from the seed.
func many(seed uint64, extra time.Duration) Run {
	p := plan.Default()
	p.MinBlocks, p.Seed, p.Splits = 6, 11, false
	p.Variants = []plan.Variant{plan.Direct, plan.DirectAA, plan.L4, plan.Ztunnel, plan.ZtunnelPlain}
	p.Modes = []plan.Mode{plan.Closed, plan.NewConn}
	r := Run{Head: Head{Plan: p}, End: &End{Complete: true}}
	for b := 1; b <= 6; b++ {
		for i, c := range p.Block(b) {
			r.Trials = append(r.Trials, plainTrial(b, i+1, c))
		}
	}
	r.Samples = func(t Trial) ([]load.Sample, error) {
		rng := rand.New(rand.NewPCG(seed, uint64(1000*t.Block+t.Order)))
		middle, spread := 100e3, 0.03
		if t.Variant != plan.Direct && t.Variant != plan.DirectAA && t.Variant != plan.L4 {
			middle = 450e3
		}
		middle *= math.Exp(spread * rng.NormFloat64())
		if t.Variant == plan.L4 {
			middle += float64(extra)
		}
		all := make([]load.Sample, t.Client.Requests)
		for i := range all {
			all[i] = load.Sample{Iteration: i, Code: 200, Latency: time.Duration(middle * math.Exp(0.2*rng.NormFloat64()))}
		}
		return all, nil
	}
	for i := range r.Trials {
		t := &r.Trials[i]
		rng := rand.New(rand.NewPCG(seed, uint64(5e6+1000*t.Block+t.Order)))
		t.CPU.Client = time.Duration(10e6 * math.Exp(0.03*rng.NormFloat64()))
		t.Client.Elapsed = time.Duration(1e9 * math.Exp(0.03*rng.NormFloat64()))
	}
	return r
}

func plainTrial(block, order int, c plan.Cell) Trial {
	t := syntheticTrial(block, order, c, 1)
	t.Client.Requests, t.Server.Requests = 100, 100
	if c.Variant == plan.L4 || c.Variant == plan.L7 || c.Variant.Traits().Redirect {
		n := uint64(1)
		t.Redirected = &n
	}
	t.CPU.Machine += 200 * time.Millisecond
	return t
}

// TestNoChangeIsFoundWhereNoneIs over many pairs of runs: what is clear of zero by
// chance in one of 24 measures is not called worse.
func TestNoChangeIsFoundWhereNoneIs(t *testing.T) {
	const pairs = 8
	called, clear := 0, 0
	for i := range uint64(pairs) {
		c, err := Compare(many(2*i, 0), many(2*i+1, 0))
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range c.Changes {
			if x.Moved == "higher" {
				clear++
			}
		}
		if c.Verdict != report.Pass {
			called++
			t.Logf("pair %d: %s %+v %+v", i, c.Verdict, c.Worse(), c.Checks)
		}
	}
	t.Logf("%d pairs: %d intervals above the noise, %d pairs called worse", pairs, clear, called)
	// 5 % of 8 is 0.4: three have p < 0.01.
	if called > 2 {
		t.Errorf("%d of %d pairs of one commit are called worse", called, pairs)
	}
}

// TestFiftyMicrosecondsAmongMany: the adjustment leaves what is really there.
func TestFiftyMicrosecondsAmongMany(t *testing.T) {
	const pairs = 2
	found := 0
	for i := range uint64(pairs) {
		c, err := Compare(many(2*i, 0), many(2*i+1, 50*time.Microsecond))
		if err != nil {
			t.Fatal(err)
		}
		here := map[string]bool{}
		for _, x := range c.Worse() {
			if x.Variant == plan.L4 && x.Measure == MeasureP50 && x.Change.Contains(50) {
				here[x.String()] = true
			}
		}
		if len(here) == 2 && c.Verdict == report.Fail {
			found++
		}
	}
	if found < pairs {
		t.Errorf("50 µs were found in both modes, inside the interval, in %d of %d pairs", found, pairs)
	}
}

// TestNothingComparedIsNoPass: a run that says nothing does not hold the gate open.
func TestNothingComparedIsNoPass(t *testing.T) {
	last := func(c Comparison) string { return c.Checks[len(c.Checks)-1].Name }
	empty := many(1, 0)
	empty.Trials, empty.End = empty.Trials[:3], nil
	c, err := Compare(many(0, 0), empty)
	if err != nil || c.Verdict != report.Inconclusive || c.NewBlocks != 0 || last(c) != "something was compared" {
		t.Errorf("no block: %s, %+v, %v", c.Verdict, c.Checks, err)
	}
	killed := many(1, 0)
	killed.End = nil
	if c, err = Compare(many(0, 0), killed); err != nil || c.Verdict != report.Inconclusive || last(c) != "new run: the run is complete" {
		t.Errorf("killed: %s, %+v, %v", c.Verdict, c.Checks, err)
	}
	bypassed := many(1, 0)
	for i := range bypassed.Trials {
		if bypassed.Trials[i].Variant == plan.L4 {
			bypassed.Trials[i].Redirected = new(uint64)
		}
	}
	if c, err = Compare(many(0, 0), bypassed); err != nil || c.Verdict != report.Fail || last(c) != "new run: duomesh-l4 redirected every connection" {
		t.Errorf("the new run is not valid: %s, %+v, %v", c.Verdict, c.Checks, err)
	}
	if c, err = Compare(bypassed, many(0, 0)); err != nil || c.Verdict != report.Inconclusive {
		t.Errorf("the old run is not valid: %s, %+v, %v", c.Verdict, c.Checks, err)
	}
	slowed := many(1, 50*time.Microsecond)
	slowed.Head.Plan.Handicap = &plan.Handicap{Variant: plan.L4, Delay: 50 * time.Microsecond}
	if c, err = Compare(many(0, 0), slowed); err != nil || c.Verdict != report.Fail || len(c.Checks) > 0 {
		t.Errorf("slowed on purpose: %s, %+v, %v", c.Verdict, c.Checks, err)
	}
}
