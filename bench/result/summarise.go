package result

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

// Summarise computes the summary of a run. Only whole blocks enter the effects,
// so that every variant has met the same machine.
func Summarise(r Run) (Summary, error) {
	s := Summary{
		Schema: SchemaSummary, Version: Version,
		Started: r.Head.Started, Plan: r.Head.Plan, Environment: r.Head.Environment,
		Reason: unfinished(r),
		Blocks: r.Blocks(),
		Noise:  noiseOf(r),
	}
	if r.End != nil {
		r.End.Annotate()
		s.Complete, s.Reason, s.Elapsed = r.End.Complete, r.End.Reason, r.End.Elapsed
		s.Counted, s.Called, s.Proxies = r.End.Counted, r.End.Called, r.End.Proxies
		s.Breakdowns, s.Connects, s.Reuse, s.Splits = r.End.Breakdowns, r.End.Connects, r.End.Reuse, r.End.Splits
	}
	trials, err := digest(r)
	if err != nil {
		return s, err
	}
	if s.Groups, err = groups(r.Head.Plan, trials); err != nil {
		return s, err
	}
	adjust(s.Groups)
	s.Targets = append(targets(s), handOffTargets(s)...)
	s.Checks = checks(r, s)
	s.Verdict = report.Pass
	for _, c := range s.Checks {
		if c.Verdict != report.NotRun {
			s.Verdict = s.Verdict.Worse(c.Verdict)
		}
	}
	if !s.Complete {
		s.Verdict = report.Inconclusive
	}
	return s, nil
}

// groups computes all groups, several at a time: resampling is the long part.
func groups(p plan.Plan, trials map[plan.Cell][]digested) ([]Group, error) {
	var all []Group
	for _, place := range p.Placements {
		for _, mode := range p.Modes {
			for _, measure := range measures(mode) {
				all = append(all, Group{Placement: place, Mode: mode, Measure: measure})
			}
		}
	}
	var work errgroup.Group
	work.SetLimit(runtime.NumCPU())
	for i, g := range all {
		work.Go(func() (err error) {
			if all[i], err = group(p, trials, g); err != nil {
				return fmt.Errorf("%s/%s: %w", g.Placement, g.Mode, err)
			}
			return nil
		})
	}
	return all, work.Wait()
}

func measures(m plan.Mode) []Measure {
	if m == plan.Fixed {
		return []Measure{Service, Response}
	}
	return []Measure{Service}
}

// group fills in the rows of a group.
func group(p plan.Plan, trials map[plan.Cell][]digested, g Group) (Group, error) {
	cell := plan.Cell{Placement: g.Placement, Mode: g.Mode}
	of := func(v plan.Variant) []digested {
		cell.Variant = v
		return trials[cell]
	}
	base := of(plan.Direct)
	for _, v := range p.Variants {
		mine := of(v)
		if len(mine) == 0 {
			continue
		}
		row := rowOf(v, mine, g.Measure)
		if v != plan.Direct {
			e, err := effectOf(base, mine, g, p.Seed)
			if err != nil {
				return g, fmt.Errorf("%s: %w", v, err)
			}
			row.Effect = e
			if row.Versus, err = versus(of, v, g, p); err != nil {
				return g, fmt.Errorf("%s: %w", v, err)
			}
		}
		if v == plan.DirectAA && row.Effect != nil {
			g.Floor = &row.Effect.AddedP50
		}
		if row.Note != "" {
			row.Factor = Factor(row, g.Mode)
		}
		g.Rows = append(g.Rows, row)
	}
	if l7, proxy := of(plan.L7), of(plan.EnvoyDirect); len(l7) > 0 {
		e, err := effectOf(proxy, l7, g, p.Seed)
		if err != nil {
			return g, fmt.Errorf("%s against %s: %w", plan.L7, plan.EnvoyDirect, err)
		}
		g.HandOff = e
	}
	for i := range g.Rows {
		if e := g.Rows[i].Effect; e != nil {
			floor := stats.Interval{}
			if g.Floor != nil {
				floor = *g.Floor
			}
			e.Difference = stats.Against(e.AddedP50, floor)
		}
	}
	return g, nil
}

// Row returns a variant's row, nil when the run did not have it.
func (g Group) Row(v plan.Variant) *Row {
	for i := range g.Rows {
		if g.Rows[i].Variant == v {
			return &g.Rows[i]
		}
	}
	return nil
}

// adjust puts Holm's correction over all comparisons of the run. The response
// rows show the same requests as the service rows and are no tests of their own.
func adjust(groups []Group) {
	var effects []*Effect
	var ps []float64
	for _, g := range groups {
		for i := range g.Rows {
			e := g.Rows[i].Effect
			if e == nil {
				continue
			}
			e.HolmP = e.P
			if g.Measure == Service && g.Rows[i].Variant != plan.DirectAA {
				effects, ps = append(effects, e), append(ps, e.P)
			}
		}
	}
	for i, p := range stats.Holm(ps) {
		effects[i].HolmP = p
	}
}

func noiseOf(r Run) Noise {
	n := Noise{Trials: len(r.Trials)}
	if r.End != nil {
		n.IdleBusy = r.End.IdleBusy
	}
	quiet := Quiet{}
	for _, t := range r.Trials {
		quiet.Learn(t)
	}
	var foreign []float64
	var steal, capacity time.Duration
	for _, t := range r.Trials {
		if !t.Kept {
			n.Repeated++
			continue
		}
		f := quiet.Foreign(t)
		if f >= r.Head.Plan.ForeignLimit {
			n.Kept++
		}
		if f >= maxForeign {
			n.Disturbed++
		}
		foreign = append(foreign, f)
		n.MaxForeign = max(n.MaxForeign, f)
		steal += t.CPU.Steal
		capacity += t.Wall * time.Duration(t.CPU.Cores)
	}
	if len(foreign) > 0 {
		n.MedianForeign = stats.Median(foreign)
	}
	if capacity > 0 {
		n.StealShare = steal.Seconds() / capacity.Seconds()
	}
	return n
}

// wholeBlocks names the blocks in which every cell has a kept trial.
func wholeBlocks(r Run) []int {
	kept := map[int]int{}
	for _, t := range r.Trials {
		if t.Kept {
			kept[t.Block]++
		}
	}
	var whole []int
	for b, n := range kept {
		if n == r.Head.Plan.Cells() {
			whole = append(whole, b)
		}
	}
	slices.Sort(whole)
	return whole
}
