package stats

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s: got %g, want %g ± %g", what, got, want, tolerance)
	}
}

func TestKnownQuantiles(t *testing.T) {
	s := Sort([]float64{5, 1, 4, 2, 3, 10, 9, 8, 7, 6})
	near(t, "p50", s.Quantile(0.5), 5, 0)
	near(t, "p90", s.Quantile(0.9), 9, 0)
	near(t, "p99", s.Quantile(0.99), 10, 0)
	near(t, "mean", s.Mean(), 5.5, 0)
	near(t, "median of even", Median([]float64{4, 1, 3, 2}), 2.5, 0)
	near(t, "median of odd", Median([]float64{4, 1, 3}), 3, 0)
	// One value of each end goes: the mean of 2, 3, 4.
	near(t, "trimmed mean", TrimmedMean([]float64{1000, 2, 3, 4, -1000}), 3, 0)
	if !math.IsNaN(Sorted(nil).Quantile(0.5)) || !math.IsNaN(Median(nil)) {
		t.Error("an empty trial must have no quantile")
	}
}

func TestHolmKnownAnswer(t *testing.T) {
	got := Holm([]float64{0.01, 0.04, 0.03, 0.005})
	for i, want := range []float64{0.03, 0.06, 0.06, 0.02} {
		near(t, "holm", got[i], want, 1e-12)
	}
	if got := Holm([]float64{0.9, 0.8}); got[0] != 1 || got[1] != 1 {
		t.Errorf("adjusted p values above 1: %v", got)
	}
}

func TestMannWhitneyKnownAnswer(t *testing.T) {
	// Two separate sets of four: the smallest p value there is, 2/C(8,4).
	near(t, "separate", MannWhitney([]float64{1, 2, 3, 4}, []float64{5, 6, 7, 8}), 2.0/70, 1e-9)
	if p := MannWhitney([]float64{1, 3, 5, 7}, []float64{2, 4, 6, 8}); p < 0.5 {
		t.Errorf("interleaved sets: p %g", p)
	}
}

func TestExpandedTailKnownAnswer(t *testing.T) {
	// n = 6: Φ(-√(6/5)·2.5706) = Φ(-2.8160) = 0.00243.
	near(t, "n=6", expandedTail(6, 0.95), 0.00243, 1e-5)
	near(t, "many", expandedTail(100000, 0.95), 0.025, 1e-4)
}

// TestResampledQuantileIsTheBootstrap draws requests again in the slow and
// obvious way and compares with the order statistic that Added uses.
func TestResampledQuantileIsTheBootstrap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	trial := lognormal(r, 200, 200e3, 0.3)
	for _, q := range []float64{0.5, 0.9, 0.99} {
		fast, slow := make([]float64, 4000), make([]float64, 4000)
		for i := range fast {
			fast[i] = AtQuantile(q)(trial).again(r)
			again := make([]float64, len(trial))
			for j := range again {
				again[j] = trial[r.IntN(len(trial))]
			}
			slow[i] = Sort(again).Quantile(q)
		}
		for _, at := range []float64{0.05, 0.5, 0.95} {
			a, b := Sort(fast).Quantile(at), Sort(slow).Quantile(at)
			near(t, "resampled quantile", a/b, 1, 0.02)
		}
	}
}

func TestExactDifference(t *testing.T) {
	var pairs []Pair
	for b := range 8 {
		base := Sorted{100 + float64(b)}
		pairs = append(pairs, Pair{base, Sorted{base[0] * 1.5}})
	}
	e, err := Compare(pairs, Single(), Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	ratio := e.Ratio
	near(t, "ratio", ratio.Estimate, 1.5, 1e-9)
	near(t, "low", ratio.Low, 1.5, 1e-9)
	near(t, "high", ratio.High, 1.5, 1e-9)
	if AtMost(ratio, 1.05) != NotReached || AtMost(ratio, 1.6) != Reached || AtMost(Interval{1, 0.9, 1.1}, 1.05) != NotShown {
		t.Error("a target is judged wrongly")
	}
	if Inside(Interval{1, 0.96, 1.04}, 0.95, 1.05) != Reached || Inside(ratio, 0.95, 1.05) != NotReached ||
		Inside(Interval{1, 0.9, 1.04}, 0.95, 1.05) != NotShown {
		t.Error("a band is judged wrongly")
	}
}

func TestNoIntervalWithoutData(t *testing.T) {
	one := []Pair{{Sorted{1}, Sorted{2}}}
	if _, err := Added(one, Single(), Options{}); !errors.Is(err, ErrTooFewBlocks) {
		t.Errorf("one block: %v", err)
	}
	if _, err := Added(append(one, Pair{}), AtMean(), Options{}); err == nil {
		t.Error("an empty trial gave an interval")
	}
	if _, err := Compare([]Pair{{Sorted{0}, Sorted{2}}, {Sorted{1}, Sorted{2}}}, Single(), Options{}); !errors.Is(err, ErrNotPositive) {
		t.Errorf("ratio to zero: %v", err)
	}
}

// TestFewHeavyRequests: a mean drawn again stays among the requests, however
// wild they are, so that a ratio of means always exists.
func TestFewHeavyRequests(t *testing.T) {
	wild := Sort([]float64{1, 1, 1, 1e9})
	e, err := Compare([]Pair{{wild, wild}, {wild, Sorted{2, 3}}, {Sorted{1}, wild}}, AtMean(), Options{Seed: 4})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []float64{e.Added.Low, e.Added.High, e.Ratio.Estimate, e.Ratio.Low, e.Ratio.High} {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			t.Errorf("no number: %+v", e)
		}
	}
}

func TestSameSeedSameInterval(t *testing.T) {
	pairs := simulate(rand.New(rand.NewPCG(3, 3)), 8, 1.05)
	a, err := Added(pairs, AtQuantile(0.5), Options{Seed: 9})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Added(pairs, AtQuantile(0.5), Options{Seed: 9})
	if err != nil || a != b {
		t.Errorf("%v and %v, %v", a, b, err)
	}
}

func lognormal(r *rand.Rand, n int, median, sigma float64) Sorted {
	s := make(Sorted, n)
	for i := range s {
		s[i] = median * math.Exp(sigma*r.NormFloat64())
	}
	slices.Sort(s)
	return s
}

// simulate makes blocks of a machine that drifts by 15 % between blocks and 2 %
// between the trials of a block; the variant is slower by factor.
func simulate(r *rand.Rand, blocks int, factor float64) []Pair {
	pairs := make([]Pair, blocks)
	for i := range pairs {
		machine := 200e3 * math.Exp(0.15*r.NormFloat64())
		pairs[i] = Pair{
			Base:    lognormal(r, 1000, machine*math.Exp(0.02*r.NormFloat64()), 0.3),
			Variant: lognormal(r, 1000, machine*factor*math.Exp(0.02*r.NormFloat64()), 0.3),
		}
	}
	return pairs
}

// differences counts how often a variant of the given slowness is called
// higher or lower than the base, with a floor of its own in each run.
func differences(t *testing.T, runs, blocks int, factor float64) (higher, lower, missed int) {
	t.Helper()
	for run := range runs {
		r := rand.New(rand.NewPCG(uint64(run), uint64(blocks)))
		o := Options{Seed: uint64(run), Replicates: 1000}
		floor, err := Added(simulate(r, blocks, 1), AtQuantile(0.5), o)
		if err != nil {
			t.Fatal(err)
		}
		pairs := simulate(r, blocks, factor)
		e, err := Compare(pairs, AtQuantile(0.5), o)
		if err != nil {
			t.Fatal(err)
		}
		switch Against(e.Added, floor) {
		case Higher:
			higher++
		case Lower:
			lower++
		}
		if !e.Ratio.Contains(factor) {
			missed++
		}
	}
	return higher, lower, missed
}

func TestSlowVariantIsDetected(t *testing.T) {
	const runs = 100
	for blocks, least := range map[int]int{6: 85, 12: 99} {
		higher, lower, missed := differences(t, runs, blocks, 1.10)
		t.Logf("%d blocks: +10 %% found in %d of %d runs", blocks, higher, runs)
		if higher < least || lower > 0 {
			t.Errorf("%d blocks: +10 %% found in %d of %d runs, want at least %d; called lower in %d", blocks, higher, runs, least, lower)
		}
		// 95 % coverage: more than 13 misses of 100 have p < 0.001.
		if missed > 13 {
			t.Errorf("%d blocks: the interval of the ratio missed the truth in %d of %d runs", blocks, missed, runs)
		}
	}
}

func TestSameVariantIsNotCalledDifferent(t *testing.T) {
	const runs = 200
	for _, blocks := range []int{6, 12} {
		higher, lower, missed := differences(t, runs, blocks, 1)
		// 5 % of 200 are 10; the floor makes it less. More than 20 have p < 0.002.
		if higher+lower > 20 {
			t.Errorf("%d blocks: A/A called different in %d of %d runs", blocks, higher+lower, runs)
		}
		if missed > 22 {
			t.Errorf("%d blocks: the interval of the ratio missed 1 in %d of %d runs", blocks, missed, runs)
		}
		t.Logf("%d blocks: %d false differences, %d intervals without 1, of %d", blocks, higher+lower, missed, runs)
	}
}
