package result

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

// SchemaComparison is that of a comparison of two runs.
const SchemaComparison = "duomesh.bench.comparison"

// Comparison is what moved between two runs of one machine.
type Comparison struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
	// Old and New are the builds that were measured, OldBlocks and NewBlocks how often.
	Old       string   `json:"old_revision"`
	New       string   `json:"new_revision"`
	OldBlocks int      `json:"old_blocks"`
	NewBlocks int      `json:"new_blocks"`
	Changes   []Change `json:"changes"`
	// Checks are why a run may not be believed, and with it nothing that is said here.
	Checks []report.Check `json:"checks,omitempty"`
	// Verdict is fail when something is worse or the new run is not valid, inconclusive
	// when nothing can be said.
	Verdict report.Verdict `json:"verdict"`
	// Left are cells that only one of the runs has.
	Left []plan.Cell `json:"left_out,omitempty"`
}

// Change is one measure of one variant in both runs: what it adds to direct, in
// microseconds.
type Change struct {
	plan.Cell
	// Measure is one of the measures below.
	Measure string `json:"measure"`
	// Change is what is added in the new run less what was added in the old one.
	Change stats.Interval `json:"change_us"`
	// Floor is the same of direct-aa, which has not changed; zero where a run
	// lacks it.
	Floor stats.Interval `json:"floor_us"`
	// P is a test on what is added in each block, HolmP the same adjusted for all
	// comparisons: of many, some are clear of zero by chance.
	P     float64 `json:"p"`
	HolmP float64 `json:"holm_p"`
	// Moved is the change held against the floor.
	Moved stats.Difference `json:"moved"`
}

// The measures of a comparison, microseconds. More is worse for each.
const (
	MeasureP50 = "p50"
	MeasureP99 = "p99"
	MeasureCPU = "CPU"
	// MeasurePace is the time from answer to answer: the throughput, turned over.
	MeasurePace = "time per answer"
)

// Worse are the changes for the worse that are beyond the noise, and beyond chance.
func (c Comparison) Worse() []Change {
	var all []Change
	for _, x := range c.Changes {
		if x.Moved == stats.Higher && x.HolmP < MayBeChance {
			all = append(all, x)
		}
	}
	return all
}

// judge gives the verdict. A run on a busy machine, or one that has no end, proves
// nothing; one that was slowed on purpose is compared for that.
func (c *Comparison) judge(older, newer Run) {
	c.Verdict = report.Pass
	if len(c.Worse()) > 0 {
		c.Verdict = report.Fail
	}
	for i, r := range []Run{older, newer} {
		name := []string{"old run: ", "new run: "}[i]
		for _, x := range Validity(r) {
			if x.Verdict == report.Pass || x.Verdict == report.NotRun || x.Name == slowedOnPurpose {
				continue
			}
			x.Name = name + x.Name
			if i == 0 {
				x.Verdict = report.Inconclusive // its faults are not the new one's
			}
			c.Checks = append(c.Checks, x)
		}
	}
	if len(c.Changes) == 0 {
		c.Checks = append(c.Checks, report.Check{
			Name: "something was compared", Verdict: report.Inconclusive,
			Detail: fmt.Sprintf("no variant beside %s has two whole blocks in both runs", plan.Direct),
		})
	}
	for _, x := range c.Checks {
		c.Verdict = c.Verdict.Worse(x.Verdict)
	}
}

// Compare holds two runs against each other, from their raw samples.
func Compare(older, newer Run) (Comparison, error) {
	c := Comparison{
		Schema: SchemaComparison, Version: Version,
		Old: older.Head.Environment.Revision, New: newer.Head.Environment.Revision,
		OldBlocks: older.Blocks(), NewBlocks: newer.Blocks(),
	}
	if err := comparable(older.Head, newer.Head); err != nil {
		return c, err
	}
	was, err := digest(older)
	if err != nil {
		return c, err
	}
	is, err := digest(newer)
	if err != nil {
		return c, err
	}
	for _, cell := range cellsOf(older.Head.Plan, newer.Head.Plan) {
		if len(was[cell]) == 0 || len(is[cell]) == 0 {
			c.Left = append(c.Left, cell)
			continue
		}
		if cell.Variant == plan.Direct || cell.Variant == plan.DirectAA {
			continue
		}
		changes, err := changesOf(was, is, cell, newer.Head.Plan.Seed)
		if err != nil {
			return c, fmt.Errorf("%s: %w", cell, err)
		}
		c.Changes = append(c.Changes, changes...)
	}
	var ps []float64
	for _, x := range c.Changes {
		ps = append(ps, x.P)
	}
	for i, p := range stats.Holm(ps) {
		c.Changes[i].HolmP = p
	}
	c.judge(older, newer)
	return c, nil
}

// comparable returns why two runs may not be compared.
func comparable(a, b Head) error {
	var errs []error
	differ := func(what string, x, y any) {
		if x != y {
			errs = append(errs, fmt.Errorf("%s: %v and %v", what, x, y))
		}
	}
	differ("processor", a.Environment.CPU, b.Environment.CPU)
	differ("cores", a.Environment.Cores, b.Environment.Cores)
	differ("load", a.Plan.Load, b.Plan.Load)
	differ("duration of a trial", a.Plan.Duration, b.Plan.Duration)
	if len(errs) > 0 {
		return fmt.Errorf("these runs may not be compared: %w", errors.Join(errs...))
	}
	return nil
}

// SamePlace returns why what was measured in two environments may not be joined.
func SamePlace(a, b Environment) error {
	var errs []error
	for _, x := range [][3]string{
		{"kernel", a.Kernel, b.Kernel}, {"processor", a.CPU, b.CPU}, {"revision", a.Revision, b.Revision}, {"Go", a.Go, b.Go},
	} {
		if x[1] != x[2] {
			errs = append(errs, fmt.Errorf("%s: %s and %s", x[0], x[1], x[2]))
		}
	}
	if a.Cores != b.Cores {
		errs = append(errs, fmt.Errorf("cores: %d and %d", a.Cores, b.Cores))
	}
	return errors.Join(append(errs, samePrograms(a.Programs, b.Programs))...)
}

// samePrograms returns which foreign programs are others.
func samePrograms(a, b map[string]string) error {
	var errs []error
	names := slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if a[name] != b[name] {
			errs = append(errs, fmt.Errorf("%s: %s and %s", name, cmp.Or(a[name], "none"), cmp.Or(b[name], "none")))
		}
	}
	return errors.Join(errs...)
}

// cellsOf are the cells of either plan, in the order of the older.
func cellsOf(plans ...plan.Plan) []plan.Cell {
	var all []plan.Cell
	for _, p := range plans {
		for _, place := range p.Placements {
			for _, m := range p.Modes {
				for _, v := range p.Variants {
					if c := (plan.Cell{Placement: place, Mode: m, Variant: v}); !slices.Contains(all, c) {
						all = append(all, c)
					}
				}
			}
		}
	}
	return all
}

// measureOf is how a measure is read from a trial.
type measureOf struct {
	name string
	of   func(digested) stats.Sorted
	s    stats.Statistic
}

// compared are the measures of a mode: p99 in saturation is the scheduler's, and the
// pace of a fixed rate is the schedule's.
func compared(m plan.Mode) []measureOf {
	latency := func(d digested) stats.Sorted { return d.service }
	all := []measureOf{
		{MeasureP50, latency, stats.AtQuantile(0.5)},
		{MeasureCPU, one(digested.roleCPU), stats.Single()},
	}
	if m != plan.Saturation {
		all = append(all, measureOf{MeasureP99, latency, stats.AtQuantile(0.99)})
	}
	if m != plan.Fixed {
		all = append(all, measureOf{MeasurePace, one(func(d digested) float64 { return 1e6 / d.perSecond() }), stats.Single()})
	}
	return all
}

func changesOf(was, is map[plan.Cell][]digested, cell plan.Cell, seed uint64) ([]Change, error) {
	o := stats.Options{Seed: seedOf(seed, is[cell][0], Group{Measure: Service})}
	var all []Change
	for _, m := range compared(cell.Mode) {
		between := func(v plan.Variant) (stats.Change, error) {
			mine := cell
			mine.Variant = v
			return stats.Between(pairsOf(was, mine, m.of), pairsOf(is, mine, m.of), m.s, o)
		}
		change, err := between(cell.Variant)
		if errors.Is(err, stats.ErrTooFewBlocks) {
			continue
		}
		if err != nil {
			return nil, err
		}
		floor, err := between(plan.DirectAA)
		if err != nil && !errors.Is(err, stats.ErrTooFewBlocks) {
			return nil, err
		}
		all = append(all, Change{
			Cell: cell, Measure: m.name, Change: change.Interval, Floor: floor.Interval, P: change.P,
			Moved: stats.Against(change.Interval, floor.Interval),
		})
	}
	return all, nil
}

// pairsOf joins a cell with direct, block by block.
func pairsOf(trials map[plan.Cell][]digested, cell plan.Cell, of func(digested) stats.Sorted) []stats.Pair {
	base := cell
	base.Variant = plan.Direct
	if len(trials[base]) != len(trials[cell]) {
		return nil
	}
	var pairs []stats.Pair
	for i, d := range trials[cell] {
		pairs = append(pairs, stats.Pair{Base: of(trials[base][i]), Variant: of(d)})
	}
	return pairs
}
