package stats

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// ErrNothingAdded is returned where a share is asked of an amount that is not
// clear of zero.
var ErrNothingAdded = errors.New("the base adds nothing that is clear of zero")

// Triple is the trials of three variants in one block: the floor, a base that is
// above it, and the variant whose share of that is asked.
type Triple struct{ Floor, Base, Variant Sorted }

// Share is the variant's part of what the base adds to the floor:
// (variant − floor) / (base − floor). It is a quotient of two joined differences
// and not the joined quotients of blocks: a block in which the base happens to
// add little would outweigh all others. All three are drawn again together, so
// that what they have in common in a block cancels. When the interval of what
// the base adds holds zero there is no share: ErrNothingAdded.
func Share(blocks []Triple, s Statistic, o Options) (Interval, error) {
	floor, base, variant, err := prepareTriples(blocks, s)
	if err != nil {
		return Interval{}, err
	}
	o = o.withDefaults()
	n := len(floor)
	r := rand.New(rand.NewPCG(o.Seed, 1))
	whole, part := make([]float64, n), make([]float64, n)
	bases, shares := make([]float64, o.Replicates), make([]float64, o.Replicates)
	for i := range o.Replicates {
		for j := range n {
			b := r.IntN(n)
			f := floor[b].again(r)
			whole[j], part[j] = base[b].again(r)-f, variant[b].again(r)-f
		}
		bases[i] = TrimmedMean(whole)
		shares[i] = TrimmedMean(part) / bases[i]
	}
	tail := expandedTail(n, o.Confidence)
	slices.Sort(bases)
	if !(stat.Quantile(tail, stat.LinInterp, bases, nil) > 0) {
		return Interval{}, ErrNothingAdded
	}
	for j := range n {
		whole[j], part[j] = base[j].seen-floor[j].seen, variant[j].seen-floor[j].seen
	}
	slices.Sort(shares)
	return Interval{
		Estimate: TrimmedMean(part) / TrimmedMean(whole),
		Low:      stat.Quantile(tail, stat.LinInterp, shares, nil),
		High:     stat.Quantile(1-tail, stat.LinInterp, shares, nil),
	}, nil
}

func prepareTriples(blocks []Triple, s Statistic) (floor, base, variant []drawer, err error) {
	if len(blocks) < MinBlocks {
		return nil, nil, nil, fmt.Errorf("%d of at least %d: %w", len(blocks), MinBlocks, ErrTooFewBlocks)
	}
	for i, t := range blocks {
		if len(t.Floor) == 0 || len(t.Base) == 0 || len(t.Variant) == 0 {
			return nil, nil, nil, fmt.Errorf("block %d: a trial without a single value", i)
		}
		floor, base, variant = append(floor, s(t.Floor)), append(base, s(t.Base)), append(variant, s(t.Variant))
	}
	return floor, base, variant, nil
}
