package verify

import (
	"context"
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// openSecond opens the second judge; nil where none is asked for.
func (g *gatherer) openSecond(ctx context.Context, pods map[string]scenario.PodHandle, o probe.Options) (*judge, error) {
	if len(g.options.Second) == 0 {
		return nil, nil
	}
	// It comes after the first one, which changes nothing.
	o.By, o.AllowLate = g.options.Second, true
	j, err := openJudge(ctx, pods, o)
	if err != nil {
		return nil, fmt.Errorf("the second one: %w", err)
	}
	for _, name := range g.options.Second {
		if !slices.ContainsFunc(probe.Kinds(), func(k probe.Kind) bool { return j.Providers()[k].Name == name }) {
			return nil, fmt.Errorf("open the second judge: provider %s does not work on this kernel", name)
		}
	}
	return j, nil
}

// compare judges the same once more by what the second judge saw. A provider of
// which the kernel does not count what it left out limits its own verdicts alone:
// the first judge knows that nothing is missing.
func (e *evidence) compare(first []report.Check, second []string) []report.Check {
	if e.second == nil {
		return nil
	}
	other := *e
	other.ledger = *e.second
	uncounted := other.ledger.Lost.Uncounted
	other.ledger.Lost.Uncounted = nil
	_, again := other.judge()
	differ := ""
	for i, c := range first {
		if i >= len(again) || again[i].Name != c.Name || again[i].Verdict != c.Verdict {
			differ = fmt.Sprintf("; first: %s is %s", c.Name, c.Verdict)
			if i < len(again) {
				differ += fmt.Sprintf(", by the other %s: %s", again[i].Verdict, again[i].Detail)
			}
			break
		}
	}
	events := uint64(0)
	var names []string
	for _, k := range probe.Kinds() {
		p := other.ledger.Providers[k].Name
		if slices.Contains(second, p) {
			events += other.ledger.Events[k]
			names = append(names, fmt.Sprintf("%s by %s", k, p))
		}
	}
	c := report.Checkf("a second judge says the same", differ == "" && len(first) == len(again) && (events > 0 || !e.connects()),
		"%d verdicts; %v, %d events; not counted by this kernel: %v%s", len(again), names, events, uncounted, differ)
	if c.Verdict == report.Fail {
		c.Verdict = report.Inconclusive // witnesses disagree
	}
	return []report.Check{c}
}

// connects: some load is of connections, of which there are events.
func (e *evidence) connects() bool {
	return slices.ContainsFunc(e.loads, func(l *loadEvidence) bool { return !isUDP(l.load) })
}
