package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// Splitter is a World that can run a scenario of shares: weights, counted by three
// witnesses.
type Splitter interface {
	Split(ctx context.Context, name string, seed uint64) report.Result
}

// splitOf is the scenario that shows the shares of a variant, and what it counts.
var splitOf = map[plan.Variant]struct{ name, unit string }{
	plan.L4: {"clusterip/weight/90-10", "connections"},
	plan.L7: {"l7/weight/90-10", "requests"},
}

// split lets the variants that know weights show that they keep them.
func split(ctx context.Context, w World, p plan.Plan) (all []result.Split, checks []report.Check) {
	s, ok := w.(Splitter)
	if !ok || !p.Splits {
		return nil, nil
	}
	for _, v := range []plan.Variant{plan.L4, plan.L7} {
		if !slices.Contains(p.Variants, v) || ctx.Err() != nil {
			continue
		}
		found := s.Split(ctx, splitOf[v].name, p.Seed)
		check := report.Check{Name: "split of " + string(v), Verdict: found.Verdict, Detail: found.Scenario + ": " + splitWords(found)}
		checks = append(checks, check)
		all = append(all, splits(found, splitOf[v].unit)...)
	}
	return all, checks
}

// splitWords says the shares, or what went wrong.
func splitWords(r report.Result) string {
	var parts []string
	if r.Reason != "" {
		parts = append(parts, r.Reason)
	}
	for _, c := range r.Checks {
		if c.Share != nil || c.Verdict != report.Pass {
			parts = append(parts, c.Name+": "+c.Detail)
		}
	}
	return strings.Join(parts, "; ")
}

func splits(r report.Result, unit string) []result.Split {
	var all []result.Split
	for _, c := range r.Checks {
		if c.Share != nil {
			all = append(all, result.Split{
				Scenario: r.Scenario, Unit: unit, Pod: c.Share.Pod, Total: c.Share.Total, Count: c.Share.Count,
				Share: c.Share.Want, Low: c.Share.Low, High: c.Share.High,
			})
		}
	}
	if len(all) == 0 {
		all = []result.Split{{Scenario: r.Scenario, Unit: unit, Reason: splitWords(r)}}
	}
	return all
}

// Split implements Splitter, in a simulated cluster of its own.
func (w *simulated) Split(ctx context.Context, name string, seed uint64) report.Result {
	s, ok := scenario.Find(name)
	if !ok {
		return report.Result{Scenario: name, Verdict: report.Inconclusive, Reason: fmt.Sprintf("there is no scenario %s", name)}
	}
	return verify.Run(ctx, s, verify.Options{World: "netsim", Open: func(ctx context.Context, t scenario.Topology) (scenario.World, error) {
		c, err := netsim.Open(ctx, netsim.Config{Waypoint: w.tools.Waypoint, Envoy: w.tools.Envoy}, t)
		if err != nil {
			return nil, err
		}
		return c, nil
	}}, seed)
}
