package page

import (
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

func signed(i stats.Interval) string {
	return fmt.Sprintf("%s [%s, %s]", plus(i.Estimate), plus(i.Low), plus(i.High))
}

func ratio(i stats.Interval) string {
	return fmt.Sprintf("%.2f [%.2f, %.2f]", i.Estimate, i.Low, i.High)
}

// verdict is whether the figures may be believed.
type verdict struct{ Class, Word, Why string }

func verdictOf(s result.Summary) verdict {
	var why []string
	for _, c := range s.Checks {
		if c.Verdict == s.Verdict {
			why = append(why, c.Name+": "+c.Detail)
		}
	}
	switch {
	case !s.Complete:
		return verdict{"warn", "incomplete", s.Reason}
	case s.Verdict == report.Pass:
		return verdict{"good", "valid", fmt.Sprintf("%d validity checks held", passed(s.Checks))}
	case s.Verdict == report.Inconclusive:
		return verdict{"warn", "inconclusive", strings.Join(why, "; ")}
	}
	return verdict{"bad", "not valid", strings.Join(why, "; ")}
}

func passed(checks []report.Check) int {
	n := 0
	for _, c := range checks {
		if c.Verdict == report.Pass {
			n++
		}
	}
	return n
}

// findings are the sentences of the first page.
func findings(s result.Summary) []template.HTML {
	var all []template.HTML
	say := func(format string, args ...any) { all = append(all, template.HTML(fmt.Sprintf(format, args...))) }
	if g := headline(s); g != nil {
		if d := g.Row(plan.Direct); d != nil {
			say("Without any mesh the middle request takes <b>%s µs</b> (%s).", micros(d.P50), modeWords(s, g.Mode))
		}
		for _, v := range []plan.Variant{plan.L4, plan.Ztunnel, plan.ZtunnelPlain, plan.HBONERef} {
			if r := g.Row(v); r != nil && r.Effect != nil {
				say("<b class=%q>%s</b> adds <b>%s µs</b> to it: %s. The bytes between the nodes are %s.%s",
					class(v), v.Label(), signed(r.Effect.AddedP50), against(*r.Effect), security(v), standInText(*r))
			}
		}
		for _, base := range []plan.Variant{plan.Ztunnel, plan.ZtunnelPlain} {
			if r := g.Row(plan.L4); r != nil {
				if x := r.Against(base); x != nil && x.Share != nil {
					say("Of what <b class=%q>%s</b> adds, <b class=%q>%s</b> adds <b>%s</b> (between the nodes: %s).",
						class(base), base, class(plan.L4), plan.L4, shareText(*x.Share), plan.Securities(plan.L4, base))
				}
			}
		}
	}
	for _, a := range s.Plan.Absent {
		say("<b>%s</b> was <b>NOT RUN</b>: %s. No other row stands in for it.", a.Variant, template.HTMLEscapeString(a.Reason))
	}
	say("“30 %% below Ambient at equal security <em>with encryption</em>” cannot be answered by this run: " +
		"duomesh has no encryption between nodes yet. The row of equal security is ztunnel-plain, where nothing is encrypted.")
	return all
}

// standInText says of a stand-in what it is.
func standInText(r result.Row) string {
	if r.Note == "" {
		return ""
	}
	return template.HTMLEscapeString(" It is " + r.Note + "; " + r.Factor + ".")
}

// headline is the group that separates datapaths best: the closed loop.
func headline(s result.Summary) *result.Group {
	for _, m := range []plan.Mode{plan.Closed, plan.Fixed, plan.NewConn, plan.Saturation} {
		i := slices.IndexFunc(s.Groups, func(g result.Group) bool {
			return g.Mode == m && g.Measure == result.Service && len(g.Rows) > 0
		})
		if i >= 0 {
			return &s.Groups[i]
		}
	}
	return nil
}

func security(v plan.Variant) string {
	if v.Traits().Security == plan.MutualTLS {
		return "encrypted (mutual TLS)"
	}
	return "plaintext"
}

// against puts an effect in words, against the floor of noise.
func against(e result.Effect) string {
	switch {
	case e.Difference != stats.NoDifference && e.HolmP >= result.MayBeChance:
		return "undecided"
	case e.Difference == stats.Higher:
		return "slower than direct"
	case e.Difference == stats.Lower:
		return "faster than direct"
	}
	return "no difference detected"
}

func shareText(i stats.Interval) string {
	text := fmt.Sprintf("%.1f %% [%.1f, %.1f]", 100*i.Estimate, 100*i.Low, 100*i.High)
	return strings.ReplaceAll(text, "-", "−")
}

func modeWords(s result.Summary, m plan.Mode) string { return m.Words(s.Plan.Load) }

func modeTitle(g result.Group) string {
	name := map[plan.Mode]string{
		plan.Fixed: "Fixed rate", plan.Closed: "Closed loop", plan.Saturation: "Saturation", plan.NewConn: "New connections",
		plan.Think250: "Closed loop, server takes 250 µs", plan.Think1000: "Closed loop, server takes 1 ms",
	}[g.Mode]
	if g.Measure == result.Response {
		name += ", from the planned time"
	}
	if g.Placement == plan.Same {
		name += ", one node"
	}
	return name
}

// fact is one line of the conditions.
type fact struct{ Name, Value string }

func facts(s result.Summary) []fact {
	e, n, l := s.Environment, s.Noise, s.Plan.Load
	all := []fact{
		{"load", fmt.Sprintf("POST of %d bytes, reply of %d; fixed rate %g/s; saturation with %d connections; GOMAXPROCS %d for client and server",
			l.PayloadBytes, l.ReplyBytes, l.PerSecond, l.Connections, l.MaxProcs)},
		{"pods", s.Plan.World.Words()},
		{"trials", fmt.Sprintf("%d whole blocks, %d trials of %v after %v of warm-up, seed %d", s.Blocks, n.Trials, s.Plan.Duration, s.Plan.Warmup, s.Plan.Seed)},
		{"noise", fmt.Sprintf("%d trials repeated for foreign CPU ≥ %s, %d kept in spite of it; machine busy before the run %s; foreign CPU median %s, most %s; stolen by the hypervisor %s",
			n.Repeated, percent(s.Plan.ForeignLimit), n.Kept, percent(n.IdleBusy), percent(n.MedianForeign), percent(n.MaxForeign), percent(n.StealShare))},
		{"machine", fmt.Sprintf("%s, %d cores, %.0f GiB, %s%s", e.CPU, e.Cores, float64(e.MemoryBytes)/(1<<30), e.Arch, map[bool]string{true: ", virtual machine"}[e.Hypervisor])},
		{"kernel", strings.Join(nonEmpty(e.Kernel, "clock "+e.Clocksource, prefixed("governor ", e.Governor), prefixed("TCP ", e.Congestion), prefixed("conntrack max ", e.ConntrackMax)), ", ")},
		{"mitigations", mapText(e.Mitigations)},
		{"build", fmt.Sprintf("revision %s, %s, %s", e.Revision, e.Go, mapText(e.Modules))},
		{"programs", mapText(e.Programs)},
	}
	for _, p := range s.Proxies {
		log := map[bool]string{true: "access log on", false: "access log off"}[p.AccessLog]
		all = append(all, fact{string(p.Variant), fmt.Sprintf("%s; %d worker threads; %s; resident memory %s", p.Program, p.Workers, log, memoryText(p.ResidentBytes))})
	}
	return slices.DeleteFunc(all, func(f fact) bool { return f.Value == "" })
}

func nonEmpty(all ...string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func mapText(m map[string]string) string {
	var parts []string
	for k, v := range m {
		parts = append(parts, k[strings.LastIndexByte(k, '/')+1:]+" "+v)
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

func memoryText(m map[string]uint64) string {
	var parts []string
	for node, b := range m {
		parts = append(parts, fmt.Sprintf("%s %.1f MB", node, float64(b)/1e6))
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return "not read"
	}
	return strings.Join(parts, ", ")
}
