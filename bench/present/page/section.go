package page

import (
	"cmp"
	"html/template"
	"slices"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
)

// section is one mode with its charts and its table.
type section struct {
	ID, Title, What string
	Chart           int
	Group           result.Group
	HasFloor        bool
	Added           template.HTML // forest plot of added p50
	CPU             template.HTML // bars of CPU per request
	Curve           template.HTML // percentile curves, for paper
	StandIn         []string
	// Takes says that the rows are in the table of costs: each mode once.
	Takes bool
}

func sectionOf(s result.Summary, g result.Group, n int, c chart) section {
	sec := section{
		ID: string(g.Placement) + "-" + string(g.Mode) + "-" + string(g.Measure), Title: modeTitle(g), What: modeWords(s, g.Mode),
		Chart: n, Group: g, HasFloor: g.Floor != nil, Curve: curveSVG(c),
	}
	if g.Measure == result.Response {
		sec.What += "; latency counts from when the request should have left"
	}
	sec.Added = addedSVG(g)
	if g.Measure == result.Service {
		sec.CPU, sec.Takes = cpuSVG(g), true
	}
	for _, r := range g.Rows {
		if r.Note != "" {
			sec.StandIn = append(sec.StandIn, string(r.Variant)+" is "+r.Note+"; "+r.Factor)
		}
	}
	return sec
}

// chart is what the script draws.
type chart struct {
	Title  string   `json:"title"`
	Series []series `json:"series"`
}

type series struct {
	Name   string  `json:"name"`
	Label  string  `json:"label"`
	Points []point `json:"points"`
}

type point struct {
	Q    float64 `json:"q"`
	Us   float64 `json:"us"`
	Low  float64 `json:"lo,omitempty"`
	High float64 `json:"hi,omitempty"`
}

// chartOf takes what can be drawn: the largest value of all has no percentile.
func chartOf(g result.Group) chart {
	c := chart{Title: modeTitle(g)}
	for _, r := range g.Rows {
		line := series{Name: string(r.Variant), Label: r.Variant.Label()}
		for _, p := range r.Pooled {
			if p.Quantile < 1 && p.Quantile > 0 && p.Micros > 0 {
				line.Points = append(line.Points, point{p.Quantile, p.Micros, p.Low, p.High})
			}
		}
		c.Series = append(c.Series, line)
	}
	return c
}

// glance is the whole run in one small table: a row per variant, a column per mode.
type glance struct {
	Modes []string
	Rows  []glanceRow
}

type glanceRow struct {
	Variant  plan.Variant
	Security string
	Absent   string
	Cells    []glanceCell
}

type glanceCell struct {
	Text, Detail, Class string
}

func glanceOf(s result.Summary) glance {
	var g glance
	var groups []result.Group
	for _, x := range s.Groups {
		if x.Measure == result.Service && len(x.Rows) > 0 {
			groups = append(groups, x)
			g.Modes = append(g.Modes, modeTitle(x))
		}
	}
	for _, v := range s.Plan.Variants {
		row := glanceRow{Variant: v, Security: v.Traits().Security}
		for _, x := range groups {
			row.Cells = append(row.Cells, glanceCellOf(x, v))
		}
		g.Rows = append(g.Rows, row)
	}
	for _, a := range s.Plan.Absent {
		g.Rows = append(g.Rows, glanceRow{Variant: a.Variant, Security: a.Variant.Traits().Security, Absent: a.Reason})
	}
	slices.SortStableFunc(g.Rows, func(a, b glanceRow) int {
		return cmp.Compare(slices.Index(plan.Variants(), a.Variant), slices.Index(plan.Variants(), b.Variant))
	})
	return g
}

func glanceCellOf(g result.Group, v plan.Variant) glanceCell {
	r := g.Row(v)
	switch {
	case r == nil:
		return glanceCell{Text: "–"}
	case v == plan.Direct:
		return glanceCell{Text: micros(r.P50) + " µs", Detail: "the floor", Class: "floor"}
	case r.Effect == nil:
		return glanceCell{Text: micros(r.P50) + " µs", Detail: "too few blocks"}
	}
	c := glanceCell{Text: plus(r.Effect.AddedP50.Estimate) + " µs", Detail: "× " + ratio(r.Effect.RatioP50)}
	switch {
	case v == plan.DirectAA:
		c.Class, c.Detail = "floor", c.Detail+", the noise floor"
	case r.Effect.Difference != stats.NoDifference && r.Effect.HolmP >= result.MayBeChance:
		c.Class, c.Detail = "none", c.Detail+", undecided"
	case r.Effect.Difference == stats.Higher:
		c.Class = heat(r.Effect.RatioP50.Estimate)
	case r.Effect.Difference == stats.Lower:
		c.Class = "less"
	default:
		c.Class = "none"
	}
	return c
}

// heat says how far above direct a ratio is, in four steps.
func heat(x float64) string {
	switch {
	case x < 1.25:
		return "more1"
	case x < 2:
		return "more2"
	case x < 3.5:
		return "more3"
	}
	return "more4"
}

// versusTable holds every variant against one row of Ambient, or what stands in.
type versusTable struct {
	Base    plan.Variant
	StandIn string
	// Factors say in each mode how much slower a stand-in is.
	Factors []string
	Lines   []versusLine
}

type versusLine struct {
	Mode string
	Row  result.Row
	V    result.Versus
}

func versusTables(s result.Summary) []versusTable {
	var all []versusTable
	for _, base := range plan.Baselines() {
		t := versusTable{Base: base, StandIn: base.Traits().StandIn}
		for _, g := range s.Groups {
			if g.Measure != result.Service {
				continue
			}
			if r := g.Row(base); r != nil && r.Factor != "" {
				t.Factors = append(t.Factors, modeTitle(g)+": "+r.Factor)
			}
			for _, r := range g.Rows {
				if v := r.Against(base); v != nil && r.Variant != plan.Direct {
					t.Lines = append(t.Lines, versusLine{modeTitle(g), r, *v})
				}
			}
		}
		if len(t.Lines) > 0 {
			all = append(all, t)
		}
	}
	return all
}

// ShareText is the share in percent, or why there is none.
func (l versusLine) ShareText() string {
	if l.V.Share == nil {
		return "none to have: the base adds nothing that is clear of zero"
	}
	return shareText(*l.V.Share)
}
