// Package present shows a summary to people and to other tools: tables on the
// terminal and as Markdown, and the text form that benchstat reads.
package present

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

// titles say in plain words what a mode does.
func title(s result.Summary, g result.Group) string {
	where := map[plan.Placement]string{plan.Cross: "client and server on two nodes", plan.Same: "client and server on one node"}[g.Placement]
	what := g.Mode.Words(s.Plan.Load)
	name := string(g.Mode)
	if g.Measure == result.Response {
		name, what = name+" (from the planned time)", what+"; latency counts from when the request should have left"
	}
	return fmt.Sprintf("%s: %s; %s", name, what, where)
}

func groupTable(g result.Group) table.Writer {
	t := newTable()
	t.AppendHeader(table.Row{
		"variant", "between nodes", "n", "errors", "p50 µs", "p90 µs", "p99 µs", "added p50 µs [95 %]", "ratio [95 %]",
		"req/s", "ratio [95 %] ", "CPU µs/req c/s/p/o", "again", "against direct",
	})
	for _, r := range g.Rows {
		row := table.Row{
			r.Variant.Label(), r.Variant.Traits().Security, r.Requests, r.Errors, micros(r.P50), micros(r.P90), micros(r.P99), "", "",
			fmt.Sprintf("%.0f", r.PerSecond), "",
			fmt.Sprintf("%.0f/%.0f/%.0f/%.0f", r.ClientCPU, r.ServerCPU, proxyCPU(r), r.OtherCPU), r.Repeated, "",
		}
		if e := r.Effect; e != nil {
			row[7], row[8] = signed(e.AddedP50), ratio(e.RatioP50)
			row[10] = ratio(e.RatioPerSecond)
			row[13] = says(r.Variant, *e)
		}
		t.AppendRow(row)
	}
	var right []table.ColumnConfig
	for n := 3; n <= 13; n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	return t
}

func proxyCPU(r result.Row) float64 {
	var sum float64
	for _, us := range r.ProxyCPU {
		sum += us
	}
	return sum
}

// standInLines say what each stand-in of a group is, and how it stands to what it
// stands in for.
func standInLines(g result.Group) []string {
	var lines []string
	for _, r := range g.Rows {
		if r.Note != "" {
			lines = append(lines, string(r.Variant)+" is "+r.Note+"; "+r.Factor+".")
		}
	}
	return lines
}

// versusTable holds every variant against the rows of Ambient, or what stands in.
func versusTable(g result.Group) table.Writer {
	t := newTable()
	t.AppendHeader(table.Row{"variant", "against", "between nodes", "share of its added p50 [95 %]", "p50 ratio [95 %]", "req/s ratio [95 %]", "CPU ratio [95 %]"})
	for _, r := range g.Rows {
		for _, v := range r.Versus {
			share := "none: it adds nothing"
			if v.Share != nil {
				share = fmt.Sprintf("%.3f [%.3f, %.3f]", v.Share.Estimate, v.Share.Low, v.Share.High)
			}
			t.AppendRow(table.Row{r.Variant.Label(), v.Base.Label(), plan.Securities(r.Variant, v.Base), share, ratio(v.RatioP50), ratio(v.RatioPerSecond), ratio(v.RatioCPU)})
		}
	}
	return t
}

// absentLines name the rows that were wanted and did not run.
func absentLines(s result.Summary) []string {
	var lines []string
	for _, a := range s.Plan.Absent {
		lines = append(lines, fmt.Sprintf("%s: NOT RUN: %s", a.Variant, a.Reason))
	}
	return lines
}

// says puts the verdict on the added p50 in words.
func says(v plan.Variant, e result.Effect) string {
	if v == plan.DirectAA {
		return "the noise floor"
	}
	word := map[stats.Difference]string{stats.Higher: "slower", stats.Lower: "faster"}[e.Difference]
	switch {
	case word == "":
		word = string(stats.NoDifference)
	case e.HolmP >= result.MayBeChance:
		word = "undecided: outside the noise, but by too few trials"
	}
	return fmt.Sprintf("%s (p %.2g)", word, e.HolmP)
}

// floorLine names the A/A floor of a group.
func floorLine(g result.Group) string {
	aa := g.Row(plan.DirectAA)
	if aa == nil || aa.Effect == nil {
		return "A/A floor: not measured (direct-aa was not in the run, or too few blocks): differences are held against zero only."
	}
	return fmt.Sprintf("A/A floor: direct against itself: p50 %s µs, ratio %s. What is not outside is noise.",
		signed(aa.Effect.AddedP50), ratio(aa.Effect.RatioP50))
}

func targetTable(s result.Summary) table.Writer {
	t := newTable()
	t.AppendHeader(table.Row{"duomesh-l4 against direct, unless another is named", "target", "found", ""})
	for _, x := range s.Targets {
		t.AppendRow(table.Row{x.Name, x.Limit, x.Found, x.Reach})
	}
	return t
}

func checkTable(s result.Summary) table.Writer {
	t := newTable()
	t.AppendHeader(table.Row{"may this run be believed?", "", "facts"})
	for _, c := range s.Checks {
		t.AppendRow(table.Row{c.Name, c.Verdict, c.Detail})
	}
	return t
}

func newTable() table.Writer {
	t := table.NewWriter()
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	return t
}

func micros(us float64) string {
	if us < 100 {
		return fmt.Sprintf("%.1f", us)
	}
	return fmt.Sprintf("%.0f", us)
}

func signed(i stats.Interval) string {
	return fmt.Sprintf("%+.1f [%+.1f, %+.1f]", i.Estimate, i.Low, i.High)
}

func ratio(i stats.Interval) string {
	return fmt.Sprintf("%.2f [%.2f, %.2f]", i.Estimate, i.Low, i.High)
}

// environmentLine is the machine and the build in one line.
func environmentLine(s result.Summary) string {
	e := s.Environment
	parts := []string{
		s.Plan.World.Words(), "kernel " + e.Kernel, e.CPU, fmt.Sprintf("%d cores", e.Cores), "clock " + e.Clocksource,
		e.Go, "revision " + e.Revision, fmt.Sprintf("seed %d", s.Plan.Seed),
	}
	if e.Governor != "" {
		parts = append(parts, "governor "+e.Governor)
	}
	if e.Hypervisor {
		parts = append(parts, "virtual machine")
	}
	var modules []string
	for path, version := range e.Modules {
		modules = append(modules, path[strings.LastIndexByte(path, '/')+1:]+" "+version)
	}
	slices.Sort(modules)
	for _, name := range slices.Sorted(maps.Keys(e.Programs)) {
		modules = append(modules, name+" "+e.Programs[name])
	}
	return strings.Join(slices.Concat(parts, modules), "; ")
}

// proxyLines are the node proxies and waypoints, and the settings that their cost
// depends on.
func proxyLines(s result.Summary) []string {
	var lines []string
	for _, p := range s.Proxies {
		log := map[bool]string{true: "on", false: "off"}[p.AccessLog]
		line := fmt.Sprintf("%s: %s; %d worker threads; access log %s", p.Variant.Label(), p.Program, p.Workers, log)
		for _, name := range slices.Sorted(maps.Keys(p.ResidentBytes)) {
			line += fmt.Sprintf("; memory of %s %s MB", name, megabytes(float64(p.ResidentBytes[name])))
		}
		lines = append(lines, line)
	}
	return lines
}

// noiseLine says how quiet the machine was.
func noiseLine(s result.Summary) string {
	n := s.Noise
	return fmt.Sprintf("%d blocks, %d trials of %v; %d repeated for foreign CPU ≥ %.0f %%, %d kept in spite of it; "+
		"machine busy before the run %.1f %%; foreign CPU median %.1f %%, most %.1f %%; stolen by the hypervisor %.2f %%",
		s.Blocks, n.Trials, s.Plan.Duration, n.Repeated, 100*s.Plan.ForeignLimit, n.Kept,
		100*n.IdleBusy, 100*n.MedianForeign, 100*n.MaxForeign, 100*n.StealShare)
}

// verdictLine is the last word.
func verdictLine(s result.Summary) string {
	if !s.Complete {
		return "verdict: INCOMPLETE: " + s.Reason
	}
	var names []string
	for _, c := range s.Checks {
		if c.Verdict == s.Verdict {
			names = append(names, fmt.Sprintf("%s (%s)", c.Name, c.Detail))
		}
	}
	switch s.Verdict {
	case report.Pass:
		return "verdict: valid: the figures may be believed"
	case report.Inconclusive:
		return "verdict: INCONCLUSIVE: " + strings.Join(names, "; ")
	}
	return "verdict: NOT VALID: " + strings.Join(names, "; ")
}
