package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// timeline is what a service had behind it, at which moment, on which node, while the
// objects were changed one after the other.
type timeline struct {
	service string
	held    []scenario.Held
	nodes   map[string]string // of client pods
}

// timeline is empty for a load whose objects were not churned, or where the world
// does not tell.
func (e *evidence) timeline(l scenario.Load) timeline {
	if l.To.Service == "" || len(e.history) == 0 {
		return timeline{}
	}
	t := timeline{service: l.To.Service, held: e.history, nodes: map[string]string{}}
	for _, pod := range l.From {
		t.nodes[pod] = e.pods[pod].Node
	}
	return t
}

// anyOf is want with all of these pods: what a connection that was made while they
// came and went must follow in all else. Where it went is checkTimes' matter, in a
// world that tells of the times.
func anyOf(want scenario.Want, pods []string) scenario.Want {
	want.Split, want.Unweighed = map[string]float64{}, true
	for _, pod := range pods {
		want.Split[pod] = 1 / float64(len(pods))
	}
	return want
}

// podsOf are those that any of the objects has behind a service.
func podsOf(service string, objects []scenario.Objects) []string {
	var all []string
	for _, o := range objects {
		all = append(all, o.Endpoints(service)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// pods are those that states from to upto, both included, have behind the service.
func (t timeline) pods(from, upto int) []string {
	var all []scenario.Objects
	for _, h := range t.held[from : upto+1] {
		all = append(all, h.Objects)
	}
	return podsOf(t.service, all)
}

// at are the pods that a connection of node may have been sent to when it was asked
// for at start and decided at the latest at decided: those of the newest state that
// the node's kernel was known to have at start, and of every later one that had been
// handed out by then.
func (t timeline) at(node string, start, decided int64) []string {
	from, upto := 0, 0
	for i, h := range t.held {
		if applied, known := h.Applied[node]; known && applied <= start {
			from = i
		}
		if h.Handed <= decided {
			upto = i
		}
	}
	return t.pods(from, max(from, upto))
}

// checkTimes holds each connection that was made while objects were churned against
// what was declared at that moment, and says whether that could tell one state from
// another.
func (g group) checkTimes() []report.Check {
	t := g.times
	if len(t.held) == 0 {
		return nil
	}
	every := len(t.pods(0, len(t.held)-1))
	told, broken, example := 0, 0, ""
	for _, f := range g.facts {
		allowed := t.at(t.nodes[f.pod], f.Start, f.decided())
		if len(allowed) < every {
			told++
		}
		for _, s := range f.servers {
			if slices.Contains(allowed, s.pod) {
				continue
			}
			broken++
			if example == "" {
				example = fmt.Sprintf("; first: pod %s cookie %d served by %s, declared was %s",
					f.pod, f.Cookie, s.pod, strings.Join(allowed, ", "))
			}
		}
	}
	checks := []report.Check{
		report.Checkf(g.name+": served by what was declared at that moment", broken == 0,
			"%d of %d connections break it%s", broken, len(g.facts), example),
		orInconclusive(report.Checkf(g.name+": the moments can be told apart", told >= max(1, len(g.facts)/10),
			"%d of %d connections were made when not every endpoint would have been right", told, len(g.facts))),
	}
	return append(checks, g.checkRate()...)
}

// checkRate says how many of the changes reached the kernel of each client's node.
func (g group) checkRate() []report.Check {
	var checks []report.Check
	seen := map[string]bool{}
	for _, pod := range g.clients() {
		node := g.times.nodes[pod]
		if seen[node] {
			continue
		}
		seen[node] = true
		n := 0
		for _, h := range g.times.held {
			if _, known := h.Applied[node]; known {
				n++
			}
		}
		handed := len(g.times.held)
		span := float64(g.times.held[handed-1].Handed-g.times.firstHanded()) / 1e9
		checks = append(checks, orInconclusive(report.Checkf(g.name+": changes reached the kernel of node "+node, n >= handed/10,
			"%d of %d were seen there, in %.1f s", n, handed, span)))
	}
	return checks
}

func (t timeline) firstHanded() int64 {
	for _, h := range t.held {
		if h.Handed != 0 {
			return h.Handed
		}
	}
	return 0
}

func (g group) clients() []string {
	var pods []string
	for pod := range g.times.nodes {
		pods = append(pods, pod)
	}
	slices.Sort(pods)
	return pods
}

// orInconclusive is a check of the run and not of the mesh.
func orInconclusive(c report.Check) report.Check {
	if c.Verdict == report.Fail {
		c.Verdict = report.Inconclusive
	}
	return c
}
