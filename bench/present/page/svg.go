package page

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
)

// drawing collects the elements of a picture. Horizontal places are percent of
// the width, so that a picture becomes narrower without its text becoming small.
type drawing struct{ strings.Builder }

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) text(x string, y float64, anchor, class, text string) {
	d.add(`<text x="%s" y="%.1f" text-anchor="%s" class=%q>%s</text>`, x, y, anchor, class, template.HTMLEscapeString(text))
}

func (d *drawing) svg(label string, height float64) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg class="still" width="100%%" height="%.0f" role="img" aria-label=%q>%s</svg>`, height, label, d.String()))
}

// scale maps values to percent of the width.
type scale struct{ low, high float64 }

func (s scale) at(x float64) float64 { return 100 * (x - s.low) / (s.high - s.low) }

func pc(x float64) string { return fmt.Sprintf("%.2f%%", x) }

// widen leaves room at both ends.
func (s scale) widen(share float64) scale {
	room := share * (s.high - s.low)
	return scale{s.low - room, s.high + room}
}

// ticks are about n round numbers inside the scale.
func (s scale) ticks(n int) []float64 {
	step := math.Pow(10, math.Floor(math.Log10((s.high-s.low)/float64(n))))
	for _, f := range []float64{1, 2, 5, 10} {
		if (s.high-s.low)/(step*f) <= float64(n) {
			step *= f
			break
		}
	}
	var all []float64
	for x := math.Ceil(s.low/step) * step; x <= s.high; x += step {
		all = append(all, x)
	}
	return all
}

const (
	rowHeight  = 44
	axisHeight = 26
)

// grid draws the lines and numbers of the axis below the rows.
func (d *drawing) grid(s scale, rows int, unit string) {
	bottom := float64(rows*rowHeight) + 4
	for _, x := range s.ticks(6) {
		class := "gridline"
		if math.Abs(x) < 1e-9 {
			class, x = "zeroline", 0
		}
		d.add(`<line class=%q x1="%s" x2="%s" y1="0" y2="%.0f"/>`, class, pc(s.at(x)), pc(s.at(x)), bottom)
		d.text(pc(s.at(x)), bottom+16, "middle", "tick", strings.TrimSuffix(strings.Replace(fmt.Sprintf("%g", x), "-", "−", 1), " ")+unit)
	}
}

// addedSVG is the forest plot: what each variant adds to direct at p50, with its
// interval, before the band of noise.
func addedSVG(g result.Group) template.HTML {
	s, rows := scale{}, 0
	for _, r := range g.Rows {
		if r.Effect == nil {
			continue
		}
		rows++
		s.low, s.high = min(s.low, r.Effect.AddedP50.Low), max(s.high, r.Effect.AddedP50.High)
	}
	if rows == 0 || s.low == s.high {
		return ""
	}
	s = s.widen(0.06)
	d := new(drawing)
	if f := g.Floor; f != nil {
		noise := math.Max(math.Abs(f.Low), math.Abs(f.High))
		left, right := max(s.at(-noise), 0), min(s.at(noise), 100)
		d.add(`<rect class="noise" x="%s" width="%s" y="0" height="%d"><title>noise: direct against itself differs by up to %.1f µs</title></rect>`,
			pc(left), pc(right-left), rows*rowHeight+4, noise)
	}
	d.grid(s, rows, "")
	i := 0
	for _, r := range g.Rows {
		if r.Effect == nil {
			continue
		}
		a, y := r.Effect.AddedP50, float64(i*rowHeight)
		i++
		d.text("0", y+15, "start", "name", r.Variant.Label())
		d.text("100%", y+15, "end", "value", signed(a)+" µs")
		d.add(`<g class=%q><title>%s: %s µs at p50; %s</title>`, class(r.Variant), r.Variant, signed(a), against(*r.Effect))
		d.add(`<line class="whisker" x1="%s" x2="%s" y1="%.1f" y2="%.1f"/>`, pc(s.at(a.Low)), pc(s.at(a.High)), y+29, y+29)
		for _, end := range []float64{a.Low, a.High} {
			d.add(`<line class="whisker" x1="%s" x2="%s" y1="%.1f" y2="%.1f"/>`, pc(s.at(end)), pc(s.at(end)), y+24, y+34)
		}
		d.add(`<circle class="dot" cx="%s" cy="%.1f" r="5.5"/></g>`, pc(s.at(a.Estimate)), y+29)
	}
	return d.svg("added latency at p50 with 95 % intervals", float64(rows*rowHeight+axisHeight))
}

// part is one role's piece of a bar.
type part struct {
	class, name string
	us          float64
}

func parts(r result.Row) []part {
	all := []part{{"role-client", "client pod", r.ClientCPU}, {"role-server", "server pod", r.ServerCPU}}
	var names []string
	for name := range r.ProxyCPU {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		all = append(all, part{fmt.Sprintf("role-proxy%d", i%3), name, r.ProxyCPU[name]})
	}
	return append(all, part{"role-other", "rest of the machine", max(r.OtherCPU, 0)})
}

// cpuSVG is a bar per variant: processor time per request by role.
func cpuSVG(g result.Group) template.HTML {
	s := scale{}
	for _, r := range g.Rows {
		total := 0.0
		for _, p := range parts(r) {
			total += p.us
		}
		s.high = max(s.high, total)
	}
	if s.high == 0 {
		return ""
	}
	s.high *= 1.02
	d := new(drawing)
	d.grid(s, len(g.Rows), "")
	for i, r := range g.Rows {
		y, from := float64(i*rowHeight), 0.0
		var total float64
		for _, p := range parts(r) {
			if p.us <= 0 {
				continue
			}
			d.add(`<rect class=%q x="%s" width="%s" y="%.1f" height="16" rx="2"><title>%s, %s: %s µs a request</title></rect>`,
				p.class, pc(s.at(from)), pc(s.at(p.us)), y+22, r.Variant, p.name, micros(p.us))
			from += p.us
			total += p.us
		}
		d.text("0", y+15, "start", "name", r.Variant.Label())
		d.text("100%", y+15, "end", "value", micros(total)+" µs")
	}
	return d.svg("processor time per request by role", float64(len(g.Rows)*rowHeight+axisHeight))
}

// Size and margins of the curves on paper.
const (
	curveWidth, curveHeight = 720.0, 340.0
	curveLeft, curveBottom  = 52.0, 46.0
	curveTop, curveRight    = 12.0, 16.0
)

var curveTicks = []float64{0.5, 0.9, 0.99, 0.999, 0.9999}

// nines puts quantiles on an axis where each further nine takes the same room.
func nines(q float64) float64 { return -math.Log10(1 - q) }

// curveSVG is the percentile chart for paper; the script draws the other.
func curveSVG(c chart) template.HTML {
	x, y := scale{0, 0}, scale{math.Inf(1), 0}
	for _, s := range c.Series {
		for _, p := range s.Points {
			x.high = max(x.high, nines(p.Q))
			y.low, y.high = min(y.low, math.Log10(p.Us)), max(y.high, math.Log10(p.Us))
		}
	}
	if x.high == 0 || y.high <= y.low {
		return ""
	}
	y = y.widen(0.05)
	px := func(q float64) float64 { return curveLeft + x.at(nines(q))/100*(curveWidth-curveLeft-curveRight) }
	py := func(us float64) float64 {
		return curveHeight - curveBottom - y.at(math.Log10(us))/100*(curveHeight-curveBottom-curveTop)
	}
	d := new(drawing)
	curveGrid(d, x, y, px, py)
	for i, s := range c.Series {
		var path strings.Builder
		for _, p := range s.Points {
			fmt.Fprintf(&path, "%.1f,%.1f ", px(p.Q), py(p.Us))
		}
		d.add(`<g class=%q><polyline class="curve" points=%q/>`, class(plan.Variant(s.Name)), strings.TrimSpace(path.String()))
		left := curveLeft + float64(i)*(curveWidth-curveLeft)/float64(len(c.Series))
		d.add(`<circle class="dot" cx="%.1f" cy="%.1f" r="4"/></g>`, left+4, curveHeight-9)
		name := s.Name
		if s.Label != s.Name {
			name += "*" // there is room for no more; the section says what it is not
		}
		d.text(fmt.Sprintf("%.1f", left+12), curveHeight-5, "start", "tick", name)
	}
	return template.HTML(fmt.Sprintf(`<svg class="paper" viewBox="0 0 %g %g" role="img" aria-label="percentile curves, µs">%s</svg>`,
		curveWidth, curveHeight, d.String()))
}

func curveGrid(d *drawing, x, y scale, px, py func(float64) float64) {
	for _, q := range curveTicks {
		if nines(q) > x.high {
			break
		}
		d.add(`<line class="gridline" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/>`, px(q), px(q), curveTop, curveHeight-curveBottom)
		d.text(fmt.Sprintf("%.1f", px(q)), curveHeight-curveBottom+15, "middle", "tick", fmt.Sprintf("p%g", q*100))
	}
	for power := math.Floor(y.low); power <= y.high; power++ {
		for _, f := range []float64{1, 2, 5} {
			us := f * math.Pow(10, power)
			if l := math.Log10(us); l < y.low || l > y.high {
				continue
			}
			d.add(`<line class="gridline" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, curveLeft, curveWidth-curveRight, py(us), py(us))
			d.text(fmt.Sprintf("%g", curveLeft-6), py(us)+4, "end", "tick", fmt.Sprintf("%g", us))
		}
	}
}
