package result

import (
	"hash/fnv"

	"github.com/duomesh/duomesh/bench/stats"
)

// effectOf compares a variant with direct, block by block. Nil when there are
// too few blocks to say anything.
func effectOf(base, mine []digested, g Group, seed uint64) (*Effect, error) {
	if len(base) < stats.MinBlocks || len(base) != len(mine) {
		return nil, nil
	}
	c := comparison{base: base, mine: mine, measure: g.Measure, opts: stats.Options{Seed: seedOf(seed, mine[0], g)}}
	p50, p90, p99 := c.latency(stats.AtQuantile(0.5)), c.latency(stats.AtQuantile(0.9)), c.latency(stats.AtQuantile(0.99))
	mean, cpu, rate := c.latency(stats.AtMean()), c.single(digested.roleCPU), c.single(digested.perSecond)
	e := &Effect{
		AddedP50: p50.Added, AddedP90: p90.Added, AddedP99: p99.Added, AddedMean: mean.Added,
		RatioP50: p50.Ratio, RatioP90: p90.Ratio, RatioP99: p99.Ratio, RatioMean: mean.Ratio,
		RatioPerSecond: rate.Ratio, RatioCPU: cpu.Ratio, AddedCPU: cpu.Added,
		RatioMachine: c.single(digested.machineCPU).Ratio,
		AddedPackets: c.added(digested.packets),
	}
	e.P = stats.MannWhitney(c.medians(base), c.medians(mine))
	return e, c.err
}

// medians are the p50 of trials.
func (c *comparison) medians(all []digested) []float64 {
	var xs []float64
	for _, d := range all {
		xs = append(xs, d.latencies(c.measure).Quantile(0.5))
	}
	return xs
}

// seedOf gives every comparison resamples of its own, the same each time.
func seedOf(seed uint64, d digested, g Group) uint64 {
	h := fnv.New64a()
	h.Write([]byte(d.Cell.String() + "/" + string(g.Measure))) // never fails (hash.Hash)
	return h.Sum64() ^ seed
}

// comparison takes effects and keeps the first error.
type comparison struct {
	base, mine []digested
	measure    Measure
	opts       stats.Options
	err        error
}

func (c *comparison) pairs(of func(digested) stats.Sorted) []stats.Pair {
	pairs := make([]stats.Pair, len(c.base))
	for i := range pairs {
		pairs[i] = stats.Pair{Base: of(c.base[i]), Variant: of(c.mine[i])}
	}
	return pairs
}

func (c *comparison) latency(s stats.Statistic) stats.Effect {
	return c.compare(func(d digested) stats.Sorted { return d.latencies(c.measure) }, s)
}

func (c *comparison) single(of func(digested) float64) stats.Effect {
	return c.compare(one(of), stats.Single())
}

func (c *comparison) compare(of func(digested) stats.Sorted, s stats.Statistic) stats.Effect {
	e, err := stats.Compare(c.pairs(of), s, c.opts)
	if c.err == nil {
		c.err = err
	}
	return e
}

// added is for numbers that may be zero: loopback has no packets.
func (c *comparison) added(of func(digested) float64) stats.Interval {
	i, err := stats.Added(c.pairs(one(of)), stats.Single(), c.opts)
	if c.err == nil {
		c.err = err
	}
	return i
}

func one(of func(digested) float64) func(digested) stats.Sorted {
	return func(d digested) stats.Sorted { return stats.Sorted{of(d)} }
}
