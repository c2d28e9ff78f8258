package page

import (
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
)

// breakdown is where the time of a request goes, in one mode.
type breakdown struct {
	Title, What string
	Picture     template.HTML
	Lines       []breakdownLine
	// Missing are the variants of which nothing is said, with the reason.
	Missing []string
}

type breakdownLine struct {
	Variant plan.Variant
	result.Breakdown
	Calls, Switches, Read, Written, Loopback, Link float64
	Handshakes                                     string
}

func breakdowns(s result.Summary) []breakdown {
	var all []breakdown
	for _, place := range s.Plan.Placements {
		for _, m := range s.Plan.Modes {
			b := breakdown{Title: modeTitle(result.Group{Placement: place, Mode: m}), What: modeWords(s, m)}
			var shown []result.Breakdown
			for _, v := range s.Plan.Variants {
				x := s.Breakdown(plan.Cell{Placement: place, Mode: m, Variant: v})
				switch {
				case x == nil:
				case x.Reason != "":
					b.Missing = append(b.Missing, v.Label()+": NOT RUN: "+x.Reason)
				default:
					shown = append(shown, *x)
					b.Lines = append(b.Lines, lineOf(s, *x))
				}
			}
			if len(shown)+len(b.Missing) > 0 {
				b.Picture = breakdownSVG(shown)
				all = append(all, b)
			}
		}
	}
	return all
}

func lineOf(s result.Summary, b result.Breakdown) breakdownLine {
	l := breakdownLine{Variant: b.Variant, Breakdown: b, Handshakes: handshakes(s, b.Cell)}
	for _, w := range b.Work {
		l.Calls, l.Switches = l.Calls+w.Calls, l.Switches+w.Switches
		l.Read, l.Written = l.Read+w.BytesRead, l.Written+w.BytesWritten
	}
	for _, p := range b.Packets {
		l.Loopback, l.Link = l.Loopback+p.Loopback, l.Link+p.Link
	}
	return l
}

// handshakes says how many TLS connections were made for how many of the client's, on
// new connections.
func handshakes(s result.Summary, c plan.Cell) string {
	i := slices.IndexFunc(s.Connects, func(x result.Connects) bool { return x.Placement == c.Placement && x.Variant == c.Variant })
	if i < 0 {
		return "–"
	}
	return fmt.Sprintf("%d of %d", s.Connects[i].Handshakes, s.Connects[i].Connections)
}

const (
	breakdownRow  = 74
	breakdownAxis = 26
)

// breakdownSVG is a bar per variant, in the order of who has the request, and below it
// the moments at which the middle request changes hands.
func breakdownSVG(all []result.Breakdown) template.HTML {
	s := scale{}
	for _, b := range all {
		s.high = max(s.high, total(b), last(b))
	}
	if s.high == 0 {
		return ""
	}
	s.high *= 1.02
	d := new(drawing)
	bottom := float64(len(all)*breakdownRow) + 4
	for _, x := range s.ticks(8) {
		d.add(`<line class="gridline" x1="%s" x2="%s" y1="0" y2="%.0f"/>`, pc(s.at(x)), pc(s.at(x)), bottom)
		d.text(pc(s.at(x)), bottom+16, "middle", "tick", fmt.Sprintf("%g", x))
	}
	for i, b := range all {
		y := float64(i * breakdownRow)
		d.text("0", y+15, "start", "name", b.Variant.Label())
		d.text("100%", y+15, "end", "value", fmt.Sprintf("%s µs, %s", micros(total(b)), hopWords(b.Hops)))
		d.bar(s, b, y+22)
		d.path(s, b, y+54)
	}
	return d.svg("where the time of a request goes, µs", bottom+breakdownAxis)
}

func hopWords(n int) string {
	if n == 1 {
		return "1 hop in user space"
	}
	return fmt.Sprintf("%d hops in user space", n)
}

func total(b result.Breakdown) float64 {
	var sum float64
	for _, p := range b.Parts {
		sum += p.Micros
	}
	return sum
}

func last(b result.Breakdown) float64 {
	var at float64
	for _, s := range b.Path {
		at = max(at, s.At)
	}
	return at
}

func (d *drawing) bar(s scale, b result.Breakdown, y float64) {
	from := 0.0
	for _, p := range b.Parts {
		class := roleClass(b, p.Role)
		switch p.What {
		case result.PartQueue:
			class = "part-queue"
		case result.PartIdle:
			class = "part-idle"
		}
		name := p.What
		if p.Role != "" {
			name = p.Role + ", " + p.What
		}
		d.add(`<rect class=%q x="%s" width="%s" y="%.1f" height="18"><title>%s: %s: %s µs, %.0f %%</title></rect>`,
			class, pc(s.at(from)), pc(s.at(p.Micros)), y, b.Variant, name, micros(p.Micros), 100*p.Micros/total(b))
		if p.What == result.PartKernel {
			d.add(`<rect class="in-kernel" x="%s" width="%s" y="%.1f" height="18"/>`, pc(s.at(from)), pc(s.at(p.Micros)), y)
		}
		from += p.Micros
	}
}

func (d *drawing) path(s scale, b result.Breakdown, y float64) {
	if len(b.Path) == 0 {
		return
	}
	d.add(`<line class="hop" x1="0%%" x2="%s" y1="%.1f" y2="%.1f"/>`, pc(s.at(last(b))), y, y)
	for _, x := range b.Path {
		woken := ""
		if x.Woken > 0 {
			woken = fmt.Sprintf(", woken at %s, ran at %s", micros(x.Woken), micros(x.Ran))
			d.add(`<line class="lag" x1="%s" x2="%s" y1="%.1f" y2="%.1f"/>`, pc(s.at(x.Woken)), pc(s.at(x.At)), y, y)
		}
		d.add(`<circle class="%s step" cx="%s" cy="%.1f" r="4.5"><title>%s: %s %s at %s µs%s</title></circle>`,
			roleClass(b, x.Role), pc(s.at(x.At)), y, b.Variant, x.Role, x.What, micros(x.At), woken)
	}
}

// roleClass is that of a role: client and server, then the proxies in their order.
func roleClass(b result.Breakdown, role string) string {
	switch role {
	case "client", "server":
		return "role-" + role
	}
	var others []string
	for _, w := range b.Work {
		if w.Role != "client" && w.Role != "server" {
			others = append(others, w.Role)
		}
	}
	return fmt.Sprintf("role-proxy%d", max(slices.Index(others, role), 0)%3)
}

// PathText is the same as the moments, for a table.
func (l breakdownLine) PathText() string {
	var parts []string
	for _, s := range l.Path {
		parts = append(parts, fmt.Sprintf("%s %s %s", micros(s.At), s.Role, s.What))
	}
	return strings.Join(parts, " → ")
}
