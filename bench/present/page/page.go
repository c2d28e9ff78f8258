// Package page writes a run's summary as one HTML file that needs nothing else:
// no network, no other file. Charts are drawn by uPlot (MIT, page/uPlot.LICENSE);
// each has a still picture beside it for paper and for browsers without scripts.
package page

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
)

//go:embed report.tmpl
var reportTemplate string

//go:embed report.css
var reportCSS string

//go:embed report.js
var reportJS string

//go:embed uPlot.iife.min.js
var uplotJS string

//go:embed uPlot.min.css
var uplotCSS string

//go:embed uPlot.LICENSE
var uplotLicence string

// view is what the template shows.
type view struct {
	result.Summary
	Run      string
	Title    string
	Verdict  verdict
	Findings []template.HTML
	Glance   glance
	Ways     []way
	Sections []section
	Versus   []versusTable
	Breaks   []breakdown
	Command  string
	Facts    []fact
	Charts   template.JS

	CSS, UplotCSS template.CSS
	JS, UplotJS   template.JS
	UplotLicence  template.HTML
}

// Write writes the page. Run is the name of the run's directory.
func Write(w io.Writer, s result.Summary, run string) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"us": micros, "signed": signed, "ratio": ratio, "class": class, "percent": percent, "one": oneDigit, "cores": cores, "mb": megabytes, "label": plan.Variant.Label, "securities": plan.Securities,
	}).Parse(reportTemplate)
	if err != nil {
		return fmt.Errorf("report template: %w", err)
	}
	v, err := newView(s, run)
	if err != nil {
		return err
	}
	return t.Execute(w, v)
}

func newView(s result.Summary, run string) (*view, error) {
	v := &view{
		Summary: s, Run: run, Title: "What a service mesh adds to a request",
		Verdict: verdictOf(s), Findings: findings(s), Glance: glanceOf(s), Ways: ways(s.Plan),
		Versus: versusTables(s), Breaks: breakdowns(s), Command: result.Command(s), Facts: facts(s),
		CSS: template.CSS(reportCSS), UplotCSS: template.CSS(uplotCSS),
		JS: template.JS(reportJS), UplotJS: template.JS(uplotJS),
		UplotLicence: template.HTML("<!--\nuPlot, https://github.com/leeoniya/uPlot\n\n" + uplotLicence + "\n-->"),
	}
	charts := []chart{}
	for _, g := range s.Groups {
		if len(g.Rows) == 0 {
			continue
		}
		c := chartOf(g)
		v.Sections = append(v.Sections, sectionOf(s, g, len(charts), c))
		charts = append(charts, c)
	}
	data, err := json.Marshal(charts) // escapes <, > and &: safe inside a script
	if err != nil {
		return nil, fmt.Errorf("chart data: %w", err)
	}
	v.Charts = template.JS(data)
	return v, nil
}

// class is the CSS class of a variant, which carries its colour.
func class(v plan.Variant) string { return "v-" + string(v) }

func percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

// oneDigit is a count per request.
func oneDigit(x float64) string { return fmt.Sprintf("%.1f", x) }

func cores(n float64) string { return fmt.Sprintf("%.3f", n) }

// megabytes says none where there is no process that could have any.
func megabytes(b float64) string {
	if b == 0 {
		return "none"
	}
	return fmt.Sprintf("%.1f", b/1e6)
}

func micros(us float64) string {
	switch {
	case us >= 9995:
		return fmt.Sprintf("%.1f ms", us/1e3)
	case us >= 100:
		return fmt.Sprintf("%.0f", us)
	}
	return fmt.Sprintf("%.1f", us)
}

// plus is a signed number with a real minus sign, as many digits as it deserves.
func plus(x float64) string {
	digits := 1
	if math.Abs(x) >= 100 {
		digits = 0
	}
	text := fmt.Sprintf("%+.*f", digits, x)
	return strings.Replace(text, "-", "−", 1)
}
