package stats

import (
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Change is an effect in one run less the same in another.
type Change struct {
	Interval
	// P is Welch's test on what the variant adds in each block of either run.
	P float64
}

// Between says by how much an effect has changed from one run to another: what the
// variant adds in the new run less what it added in the old one. Blocks of two
// runs are no pairs: each run is drawn again by itself, and the effect is paired
// inside its blocks, so that a machine that is slower as a whole on one day says
// nothing.
func Between(older, newer []Pair, s Statistic, o Options) (Change, error) {
	var seen [2]float64
	var each, drawn [2][]float64
	o = o.withDefaults()
	fewest := min(len(older), len(newer))
	for i, pairs := range [][]Pair{older, newer} {
		base, variant, err := prepare(pairs, s)
		if err != nil {
			return Change{}, err
		}
		r := rand.New(rand.NewPCG(o.Seed, uint64(i)))
		each[i], drawn[i] = effects(base, variant, o.Replicates, r)
		seen[i] = TrimmedMean(each[i])
	}
	changes := make([]float64, o.Replicates)
	for i := range changes {
		changes[i] = drawn[1][i] - drawn[0][i]
	}
	slices.Sort(changes)
	tail := expandedTail(fewest, o.Confidence)
	return Change{Interval{
		Estimate: seen[1] - seen[0],
		Low:      stat.Quantile(tail, stat.LinInterp, changes, nil),
		High:     stat.Quantile(1-tail, stat.LinInterp, changes, nil),
	}, Welch(each[0], each[1])}, nil
}

// effects are the differences of a run's blocks as seen, and the joined difference when
// they are drawn again.
func effects(base, variant []drawer, replicates int, r *rand.Rand) (seen, drawn []float64) {
	n := len(base)
	seen, drawn = make([]float64, n), make([]float64, replicates)
	for j := range n {
		seen[j] = variant[j].seen - base[j].seen
	}
	each := make([]float64, n)
	for i := range drawn {
		for j := range n {
			b := r.IntN(n)
			each[j] = variant[b].again(r) - base[b].again(r)
		}
		drawn[i] = TrimmedMean(each)
	}
	return seen, drawn
}
