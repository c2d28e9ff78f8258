package stats

import (
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
)

// Difference is what may be said of an effect.
type Difference string

// The differences. For latencies and CPU, Higher is worse.
const (
	// NoDifference: the effect is inside the noise floor, or its interval
	// holds zero.
	NoDifference Difference = "no difference detected"
	Higher       Difference = "higher"
	Lower        Difference = "lower"
)

// Against holds an added amount against the A/A floor, which is the interval of
// the same measure between two runs of one variant. Only what is clear of zero
// and farther out than anything the floor allows is called a difference.
func Against(added, floor Interval) Difference {
	noise := math.Max(math.Abs(floor.Low), math.Abs(floor.High))
	switch {
	case added.Low > 0 && added.Estimate > noise:
		return Higher
	case added.High < 0 && added.Estimate < -noise:
		return Lower
	}
	return NoDifference
}

// Reach is how a measure stands to a target.
type Reach string

// The reaches. NotShown: the interval lies across the limit, so more blocks are
// needed to tell.
const (
	Reached    Reach = "reached"
	NotReached Reach = "not reached"
	NotShown   Reach = "not shown"
)

// AtMost holds an interval against an upper limit.
func AtMost(i Interval, limit float64) Reach {
	switch {
	case i.High <= limit:
		return Reached
	case i.Low > limit:
		return NotReached
	}
	return NotShown
}

// Inside holds an interval against a band, its ends included.
func Inside(i Interval, low, high float64) Reach {
	switch {
	case i.Low >= low && i.High <= high:
		return Reached
	case i.Low > high || i.High < low:
		return NotReached
	}
	return NotShown
}

// MannWhitney returns the two-sided p value of the hypothesis that two sets of
// values, one per trial, come from one distribution. It does not use the
// pairing: a second opinion that shares nothing with the bootstrap.
func MannWhitney(a, b []float64) float64 {
	thresholds := benchmath.DefaultThresholds
	return benchmath.AssumeNothing.Compare(
		benchmath.NewSample(slices.Clone(a), &thresholds),
		benchmath.NewSample(slices.Clone(b), &thresholds),
	).P
}

// Welch returns the two-sided p value of the hypothesis that two sets of values, one
// per block, have one mean: Welch's t-test, which takes sets of different spread.
func Welch(a, b []float64) float64 {
	thresholds := benchmath.DefaultThresholds
	return benchmath.AssumeNormal.Compare(
		benchmath.NewSample(slices.Clone(a), &thresholds),
		benchmath.NewSample(slices.Clone(b), &thresholds),
	).P
}

// Holm returns p values adjusted for their number (Holm 1979, A Simple
// Sequentially Rejective Multiple Test Procedure), in the order given.
func Holm(ps []float64) []float64 {
	order := make([]int, len(ps))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case ps[a] < ps[b]:
			return -1
		case ps[a] > ps[b]:
			return 1
		}
		return 0
	})
	adjusted := make([]float64, len(ps))
	worst := 0.0
	for rank, i := range order {
		worst = math.Max(worst, math.Min(1, ps[i]*float64(len(ps)-rank)))
		adjusted[i] = worst
	}
	return adjusted
}
