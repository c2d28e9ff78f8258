package stats

import (
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Between says by how much an effect has changed from one run to another: what the
// variant adds in the new run less what it added in the old one. Blocks of two
// runs are no pairs: each run is drawn again by itself, and the effect is paired
// inside its blocks, so that a machine that is slower as a whole on one day says
// nothing.
func Between(older, newer []Pair, s Statistic, o Options) (Interval, error) {
	var seen [2]float64
	var drawn [2][]float64
	o = o.withDefaults()
	fewest := min(len(older), len(newer))
	for i, pairs := range [][]Pair{older, newer} {
		base, variant, err := prepare(pairs, s)
		if err != nil {
			return Interval{}, err
		}
		r := rand.New(rand.NewPCG(o.Seed, uint64(i)))
		seen[i], drawn[i] = effects(base, variant, o.Replicates, r)
	}
	changes := make([]float64, o.Replicates)
	for i := range changes {
		changes[i] = drawn[1][i] - drawn[0][i]
	}
	slices.Sort(changes)
	tail := expandedTail(fewest, o.Confidence)
	return Interval{
		Estimate: seen[1] - seen[0],
		Low:      stat.Quantile(tail, stat.LinInterp, changes, nil),
		High:     stat.Quantile(1-tail, stat.LinInterp, changes, nil),
	}, nil
}

// effects is the joined difference of a run as seen, and when drawn again.
func effects(base, variant []drawer, replicates int, r *rand.Rand) (seen float64, drawn []float64) {
	n := len(base)
	each := make([]float64, n)
	for j := range n {
		each[j] = variant[j].seen - base[j].seen
	}
	seen, drawn = TrimmedMean(each), make([]float64, replicates)
	for i := range drawn {
		for j := range n {
			b := r.IntN(n)
			each[j] = variant[b].again(r) - base[b].again(r)
		}
		drawn[i] = TrimmedMean(each)
	}
	return seen, drawn
}
