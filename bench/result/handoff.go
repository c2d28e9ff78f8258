package result

import (
	"fmt"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
)

// The limits of duomesh-l7 against envoy-direct: the cost of the hand-off.
const (
	handOffHigh = 1.05
	handOffRate = 0.95
)

// handOffTargets hold duomesh-l7 against the same Envoy, dialled by the client itself.
func handOffTargets(s Summary) []Target {
	var all []Target
	for _, g := range s.Groups {
		if g.Measure != Service || g.Row(plan.L7) == nil {
			continue
		}
		where := fmt.Sprintf("%s against %s, %s node, %s", plan.L7, plan.EnvoyDirect, g.Placement, g.Mode)
		limit := fmt.Sprintf("upper end of ratio ≤ %.2f", handOffHigh)
		if g.HandOff == nil || s.Blocks < minTargetBlocks {
			found := fmt.Sprintf("%d whole blocks, at least %d are needed", s.Blocks, minTargetBlocks)
			if g.Row(plan.EnvoyDirect) == nil {
				found = fmt.Sprintf("%s was not in the run", plan.EnvoyDirect)
			}
			all = append(all, Target{where + ": p50", limit, found, NotRun})
			continue
		}
		all = append(all, Target{where + ": p50", limit, ratioText(g.HandOff.RatioP50), stats.AtMost(g.HandOff.RatioP50, handOffHigh)})
		if g.Mode == plan.Saturation {
			all = append(all, Target{
				where + ": requests per second", fmt.Sprintf("lower end of ratio ≥ %.2f", handOffRate),
				ratioText(g.HandOff.RatioPerSecond), atLeast(g.HandOff.RatioPerSecond, handOffRate),
			})
		}
	}
	if len(all) > 0 {
		all = append(all, targetsAgainst(s, plan.L7)...)
	}
	return all
}

// atLeast says whether an interval lies above a limit: the mirror of stats.AtMost.
func atLeast(i stats.Interval, limit float64) stats.Reach {
	return stats.AtMost(stats.Interval{Estimate: -i.Estimate, Low: -i.High, High: -i.Low}, -limit)
}
