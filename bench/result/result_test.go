package result

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

// synthetic makes a run of a machine that drifts between blocks. Slow says by
// how much the latency and CPU of a variant are above direct's.
func synthetic(blocks int, slow map[plan.Variant]float64) Run {
	p := plan.Default()
	p.MinBlocks, p.Seed = 6, 11
	p.Variants = []plan.Variant{plan.Direct, plan.DirectAA, plan.DNAT, plan.L4}
	p.Modes = []plan.Mode{plan.Fixed, plan.Closed, plan.NewConn}
	r := Run{
		Head: Head{Schema: SchemaRun, Version: Version, Plan: p},
		End: &End{Complete: true, Counted: []Counted{
			{Cell: plan.Cell{Placement: plan.Cross, Mode: plan.Closed, Variant: plan.L4}, Requests: 1000, Setup: Programs{Runs: 2}},
			{Cell: plan.Cell{Placement: plan.Cross, Mode: plan.NewConn, Variant: plan.L4}, Requests: 1000, Connections: 1000, Steady: Programs{Runs: 2000, Time: 3 * time.Millisecond}},
		}, Called: []Called{
			{Cell: plan.Cell{Placement: plan.Cross, Mode: plan.Closed, Variant: plan.Direct}, Requests: 1000, Calls: map[string]uint64{"read": 2010, "write": 2000}},
			{Cell: plan.Cell{Placement: plan.Cross, Mode: plan.Closed, Variant: plan.L4}, Requests: 1200, Calls: map[string]uint64{"read": 2410, "write": 2400}},
		}},
	}
	rng := rand.New(rand.NewPCG(5, 5))
	machine := map[int]float64{}
	for b := 1; b <= blocks; b++ {
		machine[b] = math.Exp(0.1 * rng.NormFloat64())
		for i, c := range p.Block(b) {
			r.Trials = append(r.Trials, syntheticTrial(b, i+1, c, 1+slow[c.Variant]))
		}
	}
	r.Samples = func(t Trial) ([]load.Sample, error) {
		rng := rand.New(rand.NewPCG(uint64(t.Block), uint64(t.Order)))
		median := 200e3 * machine[t.Block] * (1 + slow[t.Variant]) * math.Exp(0.01*rng.NormFloat64())
		all := make([]load.Sample, t.Client.Requests)
		for i := range all {
			at := time.Duration(i) * 2 * time.Millisecond
			all[i] = load.Sample{
				Iteration: i, Intended: at, Start: at + 50*time.Microsecond, Code: 200,
				Latency: time.Duration(median * math.Exp(0.2*rng.NormFloat64())),
			}
		}
		return all, nil
	}
	return r
}

func syntheticTrial(block, order int, c plan.Cell, factor float64) Trial {
	rng := rand.New(rand.NewPCG(uint64(block), uint64(1000+order)))
	cpu := func(us float64) time.Duration {
		return time.Duration(500 * us * 1e3 * factor * math.Exp(0.01*rng.NormFloat64()))
	}
	t := Trial{
		Block: block, Order: order, Cell: c, Attempt: 1, Kept: true, Wall: time.Second,
		Client: load.Report{Requests: 500, Connections: 1, Elapsed: time.Second, PacketsIn: 501, PacketsOut: 501},
		Server: load.Counts{Requests: 501, Connections: 1},
		CPU:    CPU{Client: cpu(100), Server: cpu(80), Cores: 2},
	}
	t.CPU.Machine = t.CPU.Client + t.CPU.Server + 20*time.Millisecond
	if c.Mode == plan.Fixed {
		t.Client.Slots = 500
	}
	if c.Variant == plan.L4 {
		n := uint64(1)
		t.Redirected = &n
	}
	return t
}

func summarise(t *testing.T, r Run) Summary {
	t.Helper()
	s, err := Summarise(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSlowVariantAndTargets(t *testing.T) {
	s := summarise(t, synthetic(8, map[plan.Variant]float64{plan.L4: 0.10}))
	for _, g := range s.Groups {
		e := g.Row(plan.L4).Effect
		if e.Difference != stats.Higher {
			t.Errorf("%s %s: +10 %% is called %q: %+v", g.Mode, g.Measure, e.Difference, e.AddedP50)
		}
		if g.Measure == Service && (math.Abs(e.RatioP50.Estimate-1.10) > 0.03 || e.HolmP < e.P) {
			t.Errorf("%s: ratio %+v, p %g, adjusted %g", g.Mode, e.RatioP50, e.P, e.HolmP)
		}
		if aa := g.Row(plan.DirectAA).Effect; aa.Difference != stats.NoDifference {
			t.Errorf("%s %s: A/A is called %q", g.Mode, g.Measure, aa.Difference)
		}
	}
	want := map[string]stats.Reach{
		"closed: p50": stats.NotReached, "closed: CPU per request": stats.NotReached, "closed: packets": stats.Reached,
		"newconn: p50": stats.NotReached, "closed: mesh program runs": stats.Reached, "newconn: mesh program time": stats.Reached,
		"fixed: p50 from the schedule": stats.NotReached,
	}
	requireTargets(t, s, want)
	if s.Verdict != report.Pass {
		t.Errorf("a slow variant is no invalid run: %s %+v", s.Verdict, s.Checks)
	}
}

func requireTargets(t *testing.T, s Summary, want map[string]stats.Reach) {
	t.Helper()
	for name, reach := range want {
		found := false
		for _, x := range s.Targets {
			if strings.HasSuffix(x.Name, name) {
				found = true
				if x.Reach != reach {
					t.Errorf("target %s: %s (%s), want %s", x.Name, x.Reach, x.Found, reach)
				}
			}
		}
		if !found {
			t.Errorf("no target %q", name)
		}
	}
}

func TestEqualVariantReachesTargets(t *testing.T) {
	r := synthetic(12, nil)
	r.End.Counted[0].Steady.Runs = 7 // a program that runs on every request
	r.End.Counted[1].Steady.Time = time.Second
	s := summarise(t, r)
	for _, g := range s.Groups {
		for _, row := range g.Rows {
			if row.Effect != nil && row.Effect.Difference != stats.NoDifference {
				t.Errorf("%s %s %s is called %q", g.Mode, g.Measure, row.Variant, row.Effect.Difference)
			}
		}
	}
	requireTargets(t, s, map[string]stats.Reach{
		"closed: p50": stats.Reached, "closed: CPU per request": stats.Reached, "newconn: p50": stats.Reached,
		"closed: mesh program runs": stats.NotReached, "newconn: mesh program time": stats.NotReached, "closed: system calls": stats.Reached,
		"fixed: p50 from the schedule": stats.Reached,
	})
}

// TestEachCheckCanFail spoils one fact at a time.
func TestEachCheckCanFail(t *testing.T) {
	// first returns the first trial of a cell's mode and variant.
	first := func(r *Run, m plan.Mode, v plan.Variant) *Trial {
		for i := range r.Trials {
			if r.Trials[i].Mode == m && r.Trials[i].Variant == v {
				return &r.Trials[i]
			}
		}
		t.Fatalf("no trial of %s %s", m, v)
		return nil
	}
	for name, spoil := range map[string]func(*Run){
		"enough blocks":                          func(r *Run) { r.Trials[0].Kept = false },
		"every request was answered by 200":      func(r *Run) { r.Trials[0].Client.Errors = 1 },
		"server saw the client's connections":    func(r *Run) { r.Trials[0].Server.Connections++ },
		"duomesh-l4 redirected every connection": func(r *Run) { *first(r, plan.Closed, plan.L4).Redirected = 0 },
		"fixed: the client is not saturated": func(r *Run) {
			for i := range r.Trials {
				r.Trials[i].CPU.Client = 800 * time.Millisecond
				r.Trials[i].CPU.Machine = 2 * time.Second
			}
		},
		"fixed: the schedule was kept": func(r *Run) { first(r, plan.Fixed, plan.DNAT).Client.Missed = 60 },
		"judge: x": func(r *Run) {
			r.End.Checks = append(r.End.Checks, report.Checkf("judge: x", false, "one connection leaked"))
		},
	} {
		r := synthetic(6, nil)
		spoil(&r)
		s := summarise(t, r)
		var failed []string
		for _, c := range s.Checks {
			if c.Verdict == report.Fail {
				failed = append(failed, c.Name)
			}
		}
		if len(failed) != 1 || failed[0] != name || s.Verdict != report.Fail || s.Verdict.ExitCode() != 1 {
			t.Errorf("%s: failed checks %v, verdict %s", name, failed, s.Verdict)
		}
	}
	r := synthetic(6, nil)
	first(&r, plan.Closed, plan.L4).Redirected = nil
	if s := summarise(t, r); s.Verdict != report.Fail {
		t.Errorf("a redirect without a count: %s", s.Verdict)
	}
}

// TestNeighbours: what others do to the machine makes a run inconclusive, also where
// the plan lets them do anything.
func TestNeighbours(t *testing.T) {
	for name, spoil := range map[string]func(*Run){
		"the machine was idle before the run": func(r *Run) { r.End.IdleBusy = 1 },
		"the machine was ours": func(r *Run) {
			r.Head.Plan.ForeignLimit = 1
			for i := range r.Trials {
				if r.Trials[i].Block > 1 {
					r.Trials[i].CPU.Machine += time.Second
				}
			}
		},
	} {
		r := synthetic(6, nil)
		spoil(&r)
		s := summarise(t, r)
		for _, c := range s.Checks {
			if want := map[bool]report.Verdict{true: report.Inconclusive, false: report.Pass}[c.Name == name]; c.Verdict != want {
				t.Errorf("%s: check %q is %s, want %s", name, c.Name, c.Verdict, want)
			}
		}
		if s.Verdict != report.Inconclusive {
			t.Errorf("%s: verdict %s", name, s.Verdict)
		}
	}
}

// TestNeighboursInACluster: what a cluster always does is no neighbour, more than that is.
func TestNeighboursInACluster(t *testing.T) {
	busy := func(world plan.World, idle float64, foreign time.Duration) report.Verdict {
		r := synthetic(6, nil)
		r.Head.Plan.World, r.End.IdleBusy = world, idle
		for i := range r.Trials {
			if r.Trials[i].Block > 1 {
				r.Trials[i].CPU.Machine += foreign
			}
		}
		return summarise(t, r).Verdict
	}
	// A trial is a second of two processors: 150 ms are 7.5 % of them.
	for _, c := range []struct {
		world   plan.World
		idle    float64
		foreign time.Duration
		want    report.Verdict
	}{
		{plan.Kubernetes, .25, 0, report.Pass},
		{"", .25, 0, report.Inconclusive},
		{plan.Kubernetes, .35, 0, report.Inconclusive},
		{plan.Kubernetes, .25, 150 * time.Millisecond, report.Inconclusive},
	} {
		if got := busy(c.world, c.idle, c.foreign); got != c.want {
			t.Errorf("world %q, %.0f %% busy before, %v busy in trials: %s, want %s", c.world, 100*c.idle, c.foreign, got, c.want)
		}
	}
}

// TestHandicapIsNoResult: a run that was slowed on purpose says so.
func TestHandicapIsNoResult(t *testing.T) {
	r := synthetic(6, nil)
	r.Head.Plan.Handicap = &plan.Handicap{Variant: plan.L4, Delay: 50 * time.Microsecond}
	s := summarise(t, r)
	i := slices.IndexFunc(s.Checks, func(c report.Check) bool { return c.Name == "nothing was slowed on purpose" })
	if s.Verdict != report.Inconclusive || i < 0 || !strings.Contains(s.Checks[i].Detail, "duomesh-l4 was delayed by 50µs") {
		t.Errorf("%s: %+v", s.Verdict, s.Checks)
	}
}

// TestSaturatedClosedLoopIsNoFault: only the fixed mode asks for an idle client.
func TestSaturatedClosedLoopIsNoFault(t *testing.T) {
	r := synthetic(6, nil)
	for i := range r.Trials {
		if r.Trials[i].Mode != plan.Fixed {
			r.Trials[i].CPU.Client, r.Trials[i].CPU.Machine = time.Second, 2*time.Second
		}
	}
	if s := summarise(t, r); s.Verdict != report.Pass {
		t.Errorf("verdict %s: %+v", s.Verdict, s.Checks)
	}
}

func TestIncompleteRun(t *testing.T) {
	r := synthetic(3, nil)
	r.Trials = r.Trials[:len(r.Trials)-5]
	r.End = nil
	s := summarise(t, r)
	if s.Blocks != 2 || s.Complete || s.Verdict != report.Inconclusive {
		t.Errorf("blocks %d, complete %v, verdict %s", s.Blocks, s.Complete, s.Verdict)
	}
	for _, g := range s.Groups {
		for _, row := range g.Rows {
			if row.Trials != 2 {
				t.Errorf("%s %s has %d trials: the cut block took part", g.Mode, row.Variant, row.Trials)
			}
		}
	}
	requireTargets(t, s, map[string]stats.Reach{"closed: p50": NotRun})
	r.Trials = r.Trials[:4]
	s = summarise(t, r)
	if _, err := json.Marshal(s); err != nil || s.Blocks != 0 {
		t.Errorf("a run without a block: %v, %d blocks", err, s.Blocks)
	}
}

func TestRepeatsAreCountedNotUsed(t *testing.T) {
	r := synthetic(6, nil)
	noisy := r.Trials[3]
	noisy.Kept = false
	noisy.CPU.Machine += 500 * time.Millisecond
	noisy.Client.Errors = 400 // must not be seen
	r.Trials = append(r.Trials, noisy)
	r.Trials[5].CPU.Machine += 300 * time.Millisecond // 15 % of two cores
	s := summarise(t, r)
	if s.Noise.Repeated != 1 || s.Noise.Kept != 1 || s.Verdict != report.Pass {
		t.Errorf("noise %+v, verdict %s", s.Noise, s.Verdict)
	}
	if f := s.Noise.MaxForeign; math.Abs(f-0.15) > 0.01 {
		t.Errorf("most foreign CPU %.3f, want 0.15", f)
	}
	repeated := 0
	for _, g := range s.Groups {
		for _, row := range g.Rows {
			if g.Measure == Service {
				repeated += row.Repeated
			}
		}
	}
	if repeated != 1 {
		t.Errorf("rows count %d repeats", repeated)
	}
}

func TestFarTailNeedsSamples(t *testing.T) {
	has := func(s Summary, q float64) bool {
		for _, p := range s.Groups[0].Rows[0].Pooled {
			if p.Quantile == q {
				return true
			}
		}
		return false
	}
	// 500 requests per block: p99.9 needs 10 000.
	if s := summarise(t, synthetic(6, nil)); has(s, 0.999) || !has(s, 0.99) {
		t.Error("p99.9 of 3000 requests is shown")
	}
	if s := summarise(t, synthetic(20, nil)); !has(s, 0.999) || has(s, 0.9999) {
		t.Error("p99.9 of 10 000 requests is not shown, or p99.99 is")
	}
}

func TestResponseTimeOnlyWithASchedule(t *testing.T) {
	s := summarise(t, synthetic(6, nil))
	for _, g := range s.Groups {
		if (g.Measure == Response) && g.Mode != plan.Fixed {
			t.Errorf("%s has response times", g.Mode)
		}
		if g.Mode != plan.Fixed {
			continue
		}
		service := s.Groups[0].Row(plan.Direct).P50
		if got := g.Row(plan.Direct).P50 - service; g.Measure == Response && math.Abs(got-50) > 5 {
			t.Errorf("response time is %.1f µs above service time, want 50", got)
		}
	}
}

func TestSystemCalls(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*End)
		want  stats.Reach
	}{
		"one more in a hundred": {func(e *End) { e.Called[1].Calls["read"] += 20 }, stats.NotReached},
		"direct not counted":    {func(e *End) { e.Called[0].Reason = "no tracepoint" }, NotRun},
		"no direct":             {func(e *End) { e.Called = e.Called[1:] }, NotRun},
		"not counted":           {func(e *End) { e.Called[1].Reason = "no tracepoint" }, NotRun},
		"no pass":               {func(e *End) { e.Called = nil }, NotRun},
	} {
		t.Run(name, func(t *testing.T) {
			r := synthetic(6, nil)
			c.spoil(r.End)
			requireTargets(t, summarise(t, r), map[string]stats.Reach{"system calls": c.want})
		})
	}
}
