package stats

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Sorted is a trial's values in ascending order. Latencies are nanoseconds.
type Sorted []float64

// Sort returns the values in ascending order; the argument is not changed.
func Sort(values []float64) Sorted {
	s := slices.Clone(values)
	slices.Sort(s)
	return s
}

// Quantile returns the smallest value that at least a share q of all values
// does not exceed. An empty trial has none: NaN.
func (s Sorted) Quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	return stat.Quantile(q, stat.Empirical, s, nil)
}

// Mean returns the arithmetic mean; NaN for an empty trial.
func (s Sorted) Mean() float64 { return stat.Mean(s, nil) }

// Median returns the middle of values in any order, the mean of the two middle
// ones when their number is even; NaN when there are none.
func Median(values []float64) float64 {
	s := Sort(values)
	n := len(s)
	switch {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// trimShare is cut from each end before block effects are averaged.
const trimShare = 0.2

// TrimmedMean returns the mean without the lowest and the highest fifth of the
// values: near the mean's precision on quiet machines, and a few disturbed
// blocks do not move it (Wilcox, Introduction to Robust Estimation and
// Hypothesis Testing, chapter 3). Fewer than five values are all kept.
func TrimmedMean(values []float64) float64 {
	s := slices.Clone(values)
	slices.Sort(s)
	return trimmedMeanOf(s)
}

func trimmedMeanOf(sorted []float64) float64 {
	cut := int(trimShare * float64(len(sorted)))
	return stat.Mean(sorted[cut:len(sorted)-cut], nil)
}
