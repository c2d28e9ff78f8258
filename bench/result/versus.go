package result

import (
	"errors"
	"slices"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
)

// versus holds a variant against every baseline of the run but itself.
func versus(of func(plan.Variant) []digested, v plan.Variant, g Group, p plan.Plan) ([]Versus, error) {
	if v == plan.DirectAA || g.Measure != Service {
		return nil, nil // the one says how noisy direct is, the other shows the same requests again
	}
	direct, mine := of(plan.Direct), of(v)
	var all []Versus
	for _, base := range plan.Baselines() {
		theirs := of(base)
		if base == v || base.Proxied() != v.Proxied() || !slices.Contains(p.Variants, base) || len(theirs) < stats.MinBlocks || len(theirs) != len(mine) || len(direct) != len(mine) {
			continue
		}
		c := comparison{
			base: theirs, mine: mine, measure: g.Measure,
			opts: stats.Options{Seed: seedOf(p.Seed, mine[0], g) ^ seedOf(p.Seed, theirs[0], g)},
		}
		p50 := c.latency(stats.AtQuantile(0.5))
		x := Versus{
			Base: base, BaseNote: base.Traits().StandIn, AddedP50: p50.Added, RatioP50: p50.Ratio,
			RatioPerSecond: c.single(digested.perSecond).Ratio,
			RatioCPU:       c.single(digested.roleCPU).Ratio,
			Share:          c.share(direct),
		}
		if c.err != nil {
			return nil, c.err
		}
		all = append(all, x)
	}
	return all, nil
}

// share is the part of what the base adds to direct at p50; nil when that is not
// clear of zero.
func (c *comparison) share(direct []digested) *stats.Interval {
	of := func(d digested) stats.Sorted { return d.latencies(c.measure) }
	triples := make([]stats.Triple, len(c.base))
	for i := range triples {
		triples[i] = stats.Triple{Floor: of(direct[i]), Base: of(c.base[i]), Variant: of(c.mine[i])}
	}
	share, err := stats.Share(triples, stats.AtQuantile(0.5), c.opts)
	switch {
	case errors.Is(err, stats.ErrNothingAdded):
		return nil
	case err != nil && c.err == nil:
		c.err = err
	}
	return &share
}

// Against returns what is said against a base, nil when nothing is.
func (r Row) Against(base plan.Variant) *Versus {
	for i := range r.Versus {
		if r.Versus[i].Base == base {
			return &r.Versus[i]
		}
	}
	return nil
}
