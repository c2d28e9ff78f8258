package result

import (
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
)

// against are the numbers that a variant of ours is to reach beside one row of Ambient.
type against struct {
	ours       plan.Variant
	share      float64 // of what the base adds, at most; 0 where none is set
	ratio      map[plan.Mode]float64
	throughput float64 // at least, in the saturation mode
	cpu        float64 // at most, in closed loops; 0 where none is set
}

// ambientTargets are set for real ztunnels alone: a stand-in never fills them.
var ambientTargets = map[plan.Variant]against{
	plan.Ztunnel: {
		ours:       plan.L4,
		share:      0.05,
		ratio:      map[plan.Mode]float64{plan.Fixed: 0.50, plan.Closed: 0.26, plan.Saturation: 0.22, plan.NewConn: 0.35},
		throughput: 2.6, cpu: 0.40,
	},
	plan.ZtunnelPlain: {
		ours:       plan.L4,
		share:      0.07,
		ratio:      map[plan.Mode]float64{plan.Fixed: 0.58, plan.Closed: 0.30, plan.Saturation: 0.27, plan.NewConn: 0.38},
		throughput: 2.1,
	},
	// The same Envoy and the same chain; duomesh's is in plaintext.
	plan.ZtunnelWaypoint: {
		ours:       plan.L7,
		ratio:      map[plan.Mode]float64{plan.Fixed: 0.68, plan.Closed: 0.60, plan.Saturation: 0.57, plan.NewConn: 0.47},
		throughput: 1.6,
	},
}

// targetsAgainst holds duomesh-l4 or duomesh-l7 against the rows of Ambient, or says
// why that was NOT RUN.
func targetsAgainst(s Summary, ours plan.Variant) []Target {
	var all []Target
	for _, base := range []plan.Variant{plan.Ztunnel, plan.ZtunnelPlain, plan.ZtunnelWaypoint} {
		if ambientTargets[base].ours != ours {
			continue
		}
		if why, absent := s.Plan.WhyAbsent(base); absent {
			all = append(all, Target{fmt.Sprintf("%s against %s", ours, base), "ratios, throughput, share or CPU", why, NotRun})
			continue
		}
		for _, g := range s.Groups {
			if row := g.Row(ours); row != nil && g.Measure == Service && slices.Contains(s.Plan.Variants, base) {
				all = append(all, targetsIn(s, g, *row, base)...)
			}
		}
	}
	return all
}

func targetsIn(s Summary, g Group, row Row, base plan.Variant) []Target {
	limits, where := ambientTargets[base], fmt.Sprintf("%s node, %s, against %s%s: ", g.Placement, g.Mode, base, unequal(row.Variant, base))
	if row.Variant != plan.L4 {
		where = string(row.Variant) + ", " + where
	}
	v := row.Against(base)
	if v == nil || s.Blocks < minTargetBlocks {
		found := fmt.Sprintf("%d whole blocks, at least %d are needed", s.Blocks, minTargetBlocks)
		return []Target{{where + "p50", "an interval", found, NotRun}}
	}
	var all []Target
	if limits.share > 0 {
		all = append(all, shareTarget(where, v, limits.share))
	}
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

// unequal says where two rows do not offer the same.
func unequal(v, base plan.Variant) string {
	if v.Traits().Security == base.Traits().Security {
		return ""
	}
	return " (" + base.Traits().Security + ", unequal security)"
}

func shareTarget(where string, v *Versus, limit float64) Target {
	t := Target{
		Name: where + "share of its added p50", Limit: fmt.Sprintf("upper end ≤ %.2f", limit),
		Found: "it adds nothing that is clear of zero", Reach: NotRun,
	}
	if v.Share != nil {
		t.Found, t.Reach = ratioText(*v.Share), stats.AtMost(*v.Share, limit)
	}
	return t
}

func ratioAtMost(name string, i stats.Interval, limit float64) Target {
	return Target{name, fmt.Sprintf("upper end of ratio ≤ %.2f", limit), ratioText(i), stats.AtMost(i, limit)}
}

func ratioAtLeast(name string, i stats.Interval, limit float64) Target {
	return Target{name, fmt.Sprintf("lower end of ratio ≥ %.2f", limit), ratioText(i), atLeast(i, limit)}
}

// Factor says how much slower a stand-in is than what it stands in for: in this run
// where it has both, else as it was measured once.
func Factor(r Row, m plan.Mode) string {
	base := r.Variant.Traits().For
	if v := r.Against(base); v != nil {
		return fmt.Sprintf("in this run its p50 is %s of %s's", ratioText(v.RatioP50), base)
	}
	if f, ok := r.Variant.Factor(m); ok {
		return fmt.Sprintf("this run has no %s; side by side with one its p50 was %s of it", base, f)
	}
	return fmt.Sprintf("how much slower than %s it is was not measured in this run", base)
}
