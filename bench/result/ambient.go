package result

import (
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
)

// against are the numbers that duomesh-l4 is to reach beside one row of Ambient.
type against struct {
	share      float64
	ratio      map[plan.Mode]float64
	throughput float64 // at least, in the saturation mode
	cpu        float64 // at most, in closed loops; 0 where none is set
}

// ambientTargets are set for real ztunnels alone: a stand-in never fills them.
var ambientTargets = map[plan.Variant]against{
	plan.Ztunnel: {
		share:      0.05,
		ratio:      map[plan.Mode]float64{plan.Fixed: 0.50, plan.Closed: 0.26, plan.Saturation: 0.22, plan.NewConn: 0.35},
		throughput: 2.6, cpu: 0.40,
	},
	plan.ZtunnelPlain: {
		share:      0.07,
		ratio:      map[plan.Mode]float64{plan.Fixed: 0.58, plan.Closed: 0.30, plan.Saturation: 0.27, plan.NewConn: 0.38},
		throughput: 2.1,
	},
}

// targetsAgainst holds duomesh-l4 against the rows of Ambient, or says why that
// was NOT RUN.
func targetsAgainst(s Summary) []Target {
	var all []Target
	for _, base := range []plan.Variant{plan.Ztunnel, plan.ZtunnelPlain} {
		if why, absent := s.Plan.WhyAbsent(base); absent {
			all = append(all, Target{"against " + string(base), "share of its added p50, ratios, throughput, CPU", why, NotRun})
			continue
		}
		for _, g := range s.Groups {
			if row := g.Row(plan.L4); row != nil && g.Measure == Service && slices.Contains(s.Plan.Variants, base) {
				all = append(all, targetsIn(s, g, *row, base)...)
			}
		}
	}
	return all
}

func targetsIn(s Summary, g Group, row Row, base plan.Variant) []Target {
	limits, where := ambientTargets[base], fmt.Sprintf("%s node, %s, against %s: ", g.Placement, g.Mode, base)
	v := row.Against(base)
	if v == nil || s.Blocks < minTargetBlocks {
		found := fmt.Sprintf("%d whole blocks, at least %d are needed", s.Blocks, minTargetBlocks)
		return []Target{{where + "p50", "an interval", found, NotRun}}
	}
	share := Target{
		Name: where + "share of its added p50", Limit: fmt.Sprintf("upper end ≤ %.2f", limits.share),
		Found: "it adds nothing that is clear of zero", Reach: NotRun,
	}
	if v.Share != nil {
		share.Found, share.Reach = ratioText(*v.Share), stats.AtMost(*v.Share, limits.share)
	}
	all := []Target{share}
	if limit, ok := limits.ratio[g.Mode]; ok {
		all = append(all, ratioAtMost(where+"p50", v.RatioP50, limit))
	}
	if g.Mode == plan.Saturation {
		all = append(all, ratioAtLeast(where+"throughput", v.RatioPerSecond, limits.throughput))
	}
	if limits.cpu > 0 && g.Mode != plan.Fixed && g.Mode.Think() == 0 {
		all = append(all, ratioAtMost(where+"CPU per request, proxies with it", v.RatioCPU, limits.cpu))
	}
	return all
}

func ratioAtMost(name string, i stats.Interval, limit float64) Target {
	return Target{name, fmt.Sprintf("upper end of ratio ≤ %.2f", limit), ratioText(i), stats.AtMost(i, limit)}
}

func ratioAtLeast(name string, i stats.Interval, limit float64) Target {
	negative := stats.Interval{Estimate: -i.Estimate, Low: -i.High, High: -i.Low}
	return Target{name, fmt.Sprintf("lower end of ratio ≥ %.2f", limit), ratioText(i), stats.AtMost(negative, -limit)}
}

// Factor says how much slower a stand-in is than what it stands in for, as far as
// this run has measured both.
func Factor(r Row) string {
	for _, base := range []plan.Variant{plan.Ztunnel, plan.ZtunnelPlain} {
		if v := r.Against(base); v != nil && r.Variant.Traits().Security == base.Traits().Security {
			return fmt.Sprintf("in this run its p50 is %s of %s's", ratioText(v.RatioP50), base)
		}
	}
	return "how much slower than ztunnel it is was not measured in this run"
}
