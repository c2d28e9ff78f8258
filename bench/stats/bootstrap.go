package stats

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// MinBlocks is the smallest number of blocks from which an interval is made.
const MinBlocks = 2

// ErrTooFewBlocks is returned where no interval can be given.
var ErrTooFewBlocks = errors.New("too few blocks for an interval")

// ErrNotPositive is returned for a ratio of values that are not all above zero.
var ErrNotPositive = errors.New("ratio of values that are not above zero")

// Interval is an estimate and the ends of its confidence interval.
type Interval struct {
	Estimate float64 `json:"estimate"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
}

// Contains says whether x lies inside the interval, its ends included.
func (i Interval) Contains(x float64) bool { return i.Low <= x && x <= i.High }

// Options are the settings of a bootstrap.
type Options struct {
	// Replicates is the number of resamples; 0 means 4000.
	Replicates int
	// Confidence is the coverage of the interval; 0 means 0.95.
	Confidence float64
	// Seed makes the resamples repeatable.
	Seed uint64
}

func (o Options) withDefaults() Options {
	if o.Replicates == 0 {
		o.Replicates = 4000
	}
	if o.Confidence == 0 {
		o.Confidence = 0.95
	}
	return o
}

// Statistic is one number of a trial, and how it varies when the trial's
// requests are drawn again.
type Statistic func(Sorted) drawer

// drawer is a statistic of one trial.
type drawer struct {
	seen float64
	// again is the statistic of the trial's requests drawn again.
	again func(*rand.Rand) float64
}

// AtQuantile is the latency at quantile q. Drawing n requests again and taking
// their k-th smallest is the same as reading the trial at position U(k), which
// has the Beta(k, n-k+1) distribution: exact, and one draw instead of n.
func AtQuantile(q float64) Statistic {
	return func(s Sorted) drawer {
		n := len(s)
		k := min(max(math.Ceil(q*float64(n)), 1), float64(n))
		return drawer{s.Quantile(q), func(r *rand.Rand) float64 {
			u := distuv.Beta{Alpha: k, Beta: float64(n) - k + 1, Src: r}.Rand()
			return s[min(int(u*float64(n)), n-1)]
		}}
	}
}

// AtMean is the mean. The mean of n requests drawn again is taken as normal,
// which is what it is for the hundreds of requests of a trial; it never leaves
// the span of the requests.
func AtMean() Statistic {
	return func(s Sorted) drawer {
		mean, sd := stat.MeanStdDev(s, nil)
		if len(s) < 2 {
			sd = 0
		}
		of := sd / math.Sqrt(float64(len(s)))
		return drawer{mean, func(r *rand.Rand) float64 {
			return min(max(mean+of*r.NormFloat64(), s[0]), s[len(s)-1])
		}}
	}
}

// Single is for trials that are one number each: CPU per request, throughput.
func Single() Statistic {
	return func(s Sorted) drawer {
		return drawer{s[0], func(*rand.Rand) float64 { return s[0] }}
	}
}

// Pair is the trials of two variants in one block.
type Pair struct{ Base, Variant Sorted }

// Effect is by how much a variant is above its base.
type Effect struct {
	// Added is the difference, in the unit of the values.
	Added Interval
	// Ratio is variant divided by base.
	Ratio Interval
}

// Compare joins the blocks: the difference is the trimmed mean of the
// differences inside blocks, the ratio the same of logarithms, a geometric mean,
// so that the order of the two does not matter. The intervals are a hierarchical
// bootstrap: blocks are drawn again, and within each the requests of both
// trials. For values that are not all above zero there is no ratio:
// ErrNotPositive.
func Compare(pairs []Pair, s Statistic, o Options) (Effect, error) {
	base, variant, err := prepare(pairs, s)
	if err != nil {
		return Effect{}, err
	}
	for i, p := range pairs {
		if b, v := p.Base[0], p.Variant[0]; !(b > 0) || !(v > 0) {
			return Effect{}, fmt.Errorf("block %d: %g and %g: %w", i, b, v, ErrNotPositive)
		}
	}
	both := resample(base, variant, o, difference, logRatio)
	ratio := both[1]
	return Effect{both[0], Interval{math.Exp(ratio.Estimate), math.Exp(ratio.Low), math.Exp(ratio.High)}}, nil
}

// Added is the difference of Compare for values that may be zero or less.
func Added(pairs []Pair, s Statistic, o Options) (Interval, error) {
	base, variant, err := prepare(pairs, s)
	if err != nil {
		return Interval{}, err
	}
	return resample(base, variant, o, difference)[0], nil
}

func difference(base, variant float64) float64 { return variant - base }

func logRatio(base, variant float64) float64 { return math.Log(variant / base) }

func prepare(pairs []Pair, s Statistic) (base, variant []drawer, err error) {
	if len(pairs) < MinBlocks {
		return nil, nil, fmt.Errorf("%d of at least %d: %w", len(pairs), MinBlocks, ErrTooFewBlocks)
	}
	for i, p := range pairs {
		if len(p.Base) == 0 || len(p.Variant) == 0 {
			return nil, nil, fmt.Errorf("block %d: a trial without a single value", i)
		}
		base, variant = append(base, s(p.Base)), append(variant, s(p.Variant))
	}
	return base, variant, nil
}

// resample returns one interval for each way of comparing, all from the same
// draws.
func resample(base, variant []drawer, o Options, compare ...func(base, variant float64) float64) []Interval {
	o = o.withDefaults()
	n := len(base)
	r := rand.New(rand.NewPCG(o.Seed, 0))
	replicates := make([][]float64, len(compare))
	drawn := make([][]float64, len(compare))
	for c := range compare {
		replicates[c], drawn[c] = make([]float64, o.Replicates), make([]float64, n)
	}
	for i := range o.Replicates {
		for j := range n {
			block := r.IntN(n)
			b, v := base[block].again(r), variant[block].again(r)
			for c, f := range compare {
				drawn[c][j] = f(b, v)
			}
		}
		for c := range compare {
			slices.Sort(drawn[c])
			replicates[c][i] = trimmedMeanOf(drawn[c])
		}
	}
	intervals := make([]Interval, len(compare))
	tail := expandedTail(n, o.Confidence)
	for c, f := range compare {
		seen := make([]float64, n)
		for j := range seen {
			seen[j] = f(base[j].seen, variant[j].seen)
		}
		slices.Sort(replicates[c])
		intervals[c] = Interval{
			Estimate: TrimmedMean(seen),
			Low:      stat.Quantile(tail, stat.LinInterp, replicates[c], nil),
			High:     stat.Quantile(1-tail, stat.LinInterp, replicates[c], nil),
		}
	}
	return intervals
}

// expandedTail is the share to cut from each end of the replicates. A plain
// percentile interval of few blocks is too narrow, as a normal interval is
// beside a t interval; cutting less from the ends mends that (Hesterberg 2015,
// What Teachers Should Know About the Bootstrap, section 5.4).
func expandedTail(n int, confidence float64) float64 {
	half := (1 - confidence) / 2
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(n - 1)}.Quantile(half)
	return distuv.UnitNormal.CDF(math.Sqrt(float64(n)/float64(n-1)) * t)
}
