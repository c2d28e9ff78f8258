package result

import (
	"fmt"
	"slices"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
)

// The limits of duomesh-l4 against direct. Those against Ambient are in ambient.go.
const (
	bandLow, bandHigh = 0.95, 1.05
	newConnHigh       = 1.05
	packetsBand       = 0.01
	callsBand         = 0.01
	perConnection     = 4 * time.Microsecond
	// minTargetBlocks is what a statistical target takes: fewer blocks give no
	// interval of 95 % without assumptions (Mann-Whitney, sign test).
	minTargetBlocks = 6
)

// targets holds the run against the numbers that duomesh-l4 is to reach beside
// direct. A ratio of latency is one of service times, which the client's own timer
// does not dilute; what requests wait for their turn is judged as a difference.
func targets(s Summary) []Target {
	var all []Target
	for _, g := range s.Groups {
		row := g.Row(plan.L4)
		if row == nil {
			continue
		}
		if g.Measure == Response {
			all = append(all, responseTargets(s, g)...)
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
	all = append(all, targetsAgainst(s, plan.L4)...)
	all = append(all, countedTargets(s.Counted)...)
	return append(all, calledTargets(s.Called)...)
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

// responseTargets judges the time from when the schedule wanted a request to leave:
// what a stall costs the requests behind it is in this one alone. The band is that
// of the service time.
func responseTargets(s Summary, g Group) []Target {
	row, i := g.Row(plan.L4), slices.IndexFunc(s.Groups, func(o Group) bool {
		return o.Placement == g.Placement && o.Mode == g.Mode && o.Measure == Service
	})
	if i < 0 || s.Groups[i].Row(plan.Direct) == nil || row.Effect == nil || s.Blocks < minTargetBlocks {
		return nil // said of the service time already
	}
	band := (bandHigh - 1) * s.Groups[i].Row(plan.Direct).P50
	added := row.Effect.AddedP50
	return []Target{{
		fmt.Sprintf("%s node, %s: p50 from the schedule", g.Placement, g.Mode),
		fmt.Sprintf("whole interval of what is added in ±%.1f µs", band),
		fmt.Sprintf("%+.2f µs [%+.2f, %+.2f]", added.Estimate, added.Low, added.High),
		stats.Inside(added, -band, band),
	}}
}

// calledTargets hold the system calls per request against direct's.
func calledTargets(called []Called) []Target {
	var all []Target
	for _, c := range called {
		if c.Variant != plan.L4 {
			continue
		}
		t := Target{
			Name:  fmt.Sprintf("%s node, %s: system calls", c.Placement, c.Mode),
			Limit: fmt.Sprintf("0 more per request than direct (to %.2f)", callsBand), Reach: NotRun, Found: c.Reason,
		}
		i := slices.IndexFunc(called, func(d Called) bool {
			return d.Placement == c.Placement && d.Mode == c.Mode && d.Variant == plan.Direct
		})
		switch {
		case c.Reason != "":
		case i < 0 || called[i].Reason != "" || called[i].Requests == 0 || c.Requests == 0:
			t.Found = "direct was not counted"
		default:
			t.Found, t.Reach = callsFound(called[i], c)
		}
		all = append(all, t)
	}
	if len(all) == 0 {
		return []Target{{"keep-alive: system calls", "0 more per request than direct", "the counted pass was not made", NotRun}}
	}
	return all
}

func callsFound(direct, c Called) (string, stats.Reach) {
	found := fmt.Sprintf("%.4f against %.4f, over %d and %d requests",
		c.PerRequest(), direct.PerRequest(), c.Requests, direct.Requests)
	if c.PerRequest()-direct.PerRequest() <= callsBand {
		return found, stats.Reached
	}
	return found, stats.NotReached
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
