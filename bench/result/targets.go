package result

import (
	"fmt"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
)

// The limits of duomesh-l4 against direct.
const (
	bandLow, bandHigh = 0.95, 1.05
	newConnHigh       = 1.05
	packetsBand       = 0.01
	perConnection     = 4 * time.Microsecond
	// minTargetBlocks is what a statistical target takes: fewer blocks give no
	// interval of 95 % without assumptions (Mann-Whitney, sign test).
	minTargetBlocks = 6
)

// targets holds the run against the numbers that duomesh-l4 is to reach beside
// direct. Latency is the service time, where the client's own timer does not
// dilute a ratio.
func targets(s Summary) []Target {
	var all []Target
	for _, g := range s.Groups {
		row := g.Row(plan.L4)
		if row == nil || g.Measure != Service {
			continue
		}
		where := fmt.Sprintf("%s node, %s", g.Placement, g.Mode)
		switch {
		case row.Effect == nil || s.Blocks < minTargetBlocks:
			found := fmt.Sprintf("%d whole blocks, at least %d are needed", s.Blocks, minTargetBlocks)
			all = append(all, Target{where + ": p50", "an interval against direct", found, NotRun})
		case g.Mode.KeepAlive():
			all = append(all, keepAliveTargets(where, *row.Effect)...)
		default:
			all = append(all, Target{
				where + ": p50", fmt.Sprintf("upper end of ratio ≤ %.2f", newConnHigh),
				ratioText(row.Effect.RatioP50), stats.AtMost(row.Effect.RatioP50, newConnHigh),
			})
		}
	}
	if len(all) == 0 {
		return nil
	}
	all = append(all, countedTargets(s.Counted)...)
	return append(all, Target{
		"keep-alive: system calls", "0 more per request than direct",
		"this bench counts no system calls", NotRun,
	})
}

func keepAliveTargets(where string, e Effect) []Target {
	band := fmt.Sprintf("whole interval of ratio in %.2f…%.2f", bandLow, bandHigh)
	return []Target{
		{where + ": p50", band, ratioText(e.RatioP50), stats.Inside(e.RatioP50, bandLow, bandHigh)},
		{where + ": CPU per request", band, ratioText(e.RatioCPU), stats.Inside(e.RatioCPU, bandLow, bandHigh)},
		{
			where + ": CPU per request, whole machine", band, ratioText(e.RatioMachine),
			stats.Inside(e.RatioMachine, bandLow, bandHigh),
		},
		{
			where + ": packets", fmt.Sprintf("0 more per request (to %.2f)", packetsBand),
			fmt.Sprintf("%+.4f [%+.4f, %+.4f]", e.AddedPackets.Estimate, e.AddedPackets.Low, e.AddedPackets.High),
			stats.Inside(e.AddedPackets, -packetsBand, packetsBand),
		},
	}
}

func ratioText(i stats.Interval) string {
	return fmt.Sprintf("%.3f [%.3f, %.3f]", i.Estimate, i.Low, i.High)
}

// countedTargets are exact: the kernel counted every run of the mesh programs.
func countedTargets(counted []Counted) []Target {
	var all []Target
	for _, c := range counted {
		if c.Variant != plan.L4 {
			continue
		}
		where := fmt.Sprintf("%s node, %s: ", c.Placement, c.Mode)
		if c.Mode.KeepAlive() {
			all = append(all, steadyTarget(where, c))
			continue
		}
		all = append(all, perConnectionTarget(where, c))
	}
	if len(all) == 0 {
		all = append(all, Target{"mesh program runs", "0 per request after connect", "the counted pass was not made", NotRun})
	}
	return all
}

func steadyTarget(where string, c Counted) Target {
	t := Target{Name: where + "mesh program runs", Limit: "0 per request after connect", Reach: NotRun, Found: c.Reason}
	if c.Reason != "" {
		return t
	}
	t.Found = fmt.Sprintf("%d runs in %d requests", c.Steady.Runs, c.Requests)
	t.Reach = stats.NotReached
	if c.Steady.Runs == 0 && c.Requests > 0 {
		t.Reach = stats.Reached
	}
	return t
}

func perConnectionTarget(where string, c Counted) Target {
	t := Target{
		Name: where + "mesh program time", Limit: fmt.Sprintf("≤ %v per connection", perConnection),
		Reach: NotRun, Found: c.Reason,
	}
	if c.Reason != "" {
		return t
	}
	if c.Connections == 0 {
		t.Found = "no connection was counted"
		return t
	}
	each := time.Duration(int64(c.Steady.Time) / c.Connections)
	t.Found = fmt.Sprintf("%v, %.2f program runs, over %d connections", each, float64(c.Steady.Runs)/float64(c.Connections), c.Connections)
	t.Reach = stats.NotReached
	if each <= perConnection {
		t.Reach = stats.Reached
	}
	return t
}
