package result

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/internal/report"
)

// The limits of a valid run.
const (
	maxClientShare = 0.70
	maxMissedShare = 0.001
	// maxDisturbed is the share of kept trials that others may have disturbed.
	maxDisturbed = 0.10
)

// maxForeign is the share of the machine from which on a trial counts as disturbed,
// however much the plan lets others have before it is made again.
const maxForeign = 0.05

// maxIdleBusy is the share of the machine that others may use while nothing of ours runs.
// Trials cannot show a neighbour that is always there: their quietest is as disturbed as
// all others. A cluster's API server, etcd, kubelets and controllers are such a neighbour,
// of every variant alike, and a cluster without them is none: there the limit leaves room
// for them. They lengthen what is measured, so that ratios come out nearer to 1 than on a
// machine without a cluster.
func maxIdleBusy(w plan.World) float64 {
	if w == plan.Kubernetes {
		return 0.30
	}
	return 0.10
}

// slowedOnPurpose is the check that a run with a handicap does not pass.
const slowedOnPurpose = "nothing was slowed on purpose"

// Validity is whether a run may be believed, without its figures.
func Validity(r Run) []report.Check {
	if reason := unfinished(r); reason != "" {
		return []report.Check{{Name: "the run is complete", Verdict: report.Inconclusive, Detail: reason}}
	}
	return checks(r, Summary{Plan: r.Head.Plan, Blocks: r.Blocks(), Noise: noiseOf(r)})
}

// unfinished is why a run has no end of its own; empty where it has.
func unfinished(r Run) string {
	switch {
	case r.End == nil:
		return "the run has no end: it was killed"
	case !r.End.Complete:
		return r.End.Reason
	}
	return ""
}

// checks says whether the figures may be believed. Saturated clients and missed
// slots concern the fixed mode alone: closed loops saturate by design.
func checks(r Run, s Summary) []report.Check {
	var kept []Trial
	for _, t := range r.Trials {
		if t.Kept {
			kept = append(kept, t)
		}
	}
	all := []report.Check{
		checkBlocks(s),
		checkAnswers(kept),
		checkConnections(kept),
		checkQuiet(s.Noise),
	}
	if r.End != nil {
		all = append(all, checkIdle(s.Noise, maxIdleBusy(s.Plan.World)))
	}
	if h := r.Head.Plan.Handicap; h != nil {
		all = append(all, report.Check{
			Name: slowedOnPurpose, Verdict: report.Inconclusive,
			Detail: fmt.Sprintf("%s was delayed by %v with each segment that its client sends: this run is no result", h.Variant, h.Delay),
		})
	}
	all = append(all, checkRedirects(kept)...)
	for _, m := range r.Head.Plan.Modes {
		if m == plan.Fixed {
			all = append(all, checkClient(kept), checkMissed(kept))
		}
	}
	if r.End != nil {
		all = append(all, r.End.Checks...)
	}
	for _, a := range r.Head.Plan.Absent {
		all = append(all, report.Check{Name: string(a.Variant), Verdict: report.NotRun, Detail: "NOT RUN: " + a.Reason})
	}
	return all
}

func checkBlocks(s Summary) report.Check {
	want := s.Plan.Blocks
	if want == 0 {
		want = s.Plan.MinBlocks
	}
	return report.Checkf("enough blocks", s.Blocks >= want, "%d whole blocks, at least %d wanted", s.Blocks, want)
}

// checkQuiet makes a run on a busy machine inconclusive: nothing is wrong with
// what was measured, but its figures say more of the neighbours.
func checkQuiet(n Noise) report.Check {
	kept := n.Trials - n.Repeated
	return orInconclusive(report.Checkf("the machine was ours", float64(n.Disturbed) <= maxDisturbed*float64(kept),
		"%d of %d kept trials were disturbed by others (%.0f %% of the machine or more), at most %.0f %% wanted",
		n.Disturbed, kept, 100*maxForeign, 100*maxDisturbed))
}

// checkIdle finds the neighbour that is always there.
func checkIdle(n Noise, most float64) report.Check {
	return orInconclusive(report.Checkf("the machine was idle before the run", n.IdleBusy <= most,
		"%.1f %% of it was busy while nothing of ours ran, at most %.0f %% wanted", 100*n.IdleBusy, 100*most))
}

func orInconclusive(c report.Check) report.Check {
	if c.Verdict != report.Pass {
		c.Verdict = report.Inconclusive
	}
	return c
}

func checkAnswers(kept []Trial) report.Check {
	requests, bad := 0, 0
	for _, t := range kept {
		requests += t.Client.Requests
		bad += t.Client.Errors
	}
	return report.Checkf("every request was answered by 200", bad == 0 && requests > 0,
		"%d of %d requests were not", bad, requests)
}

// checkConnections compares two witnesses. A connection more or less means that
// something on the way made connections of its own, as a proxy is meant to: its
// variants are not looked at.
func checkConnections(kept []Trial) report.Check {
	var client, server int64
	worst := ""
	for _, t := range kept {
		if t.Variant.Proxied() {
			continue
		}
		client += t.Client.Connections
		server += t.Server.Connections
		if t.Client.Connections != t.Server.Connections && worst == "" {
			worst = fmt.Sprintf("; first in %s: client %d, server %d", t, t.Client.Connections, t.Server.Connections)
		}
	}
	return report.Checkf("server saw the client's connections", worst == "" && server > 0,
		"clients opened %d, servers took %d%s", client, server, worst)
}

// checkRedirects compares what each engine and each node proxy counted itself
// with the client: one check for each variant that has such a counter.
func checkRedirects(kept []Trial) []report.Check {
	var all []report.Check
	for _, v := range plan.Variants() {
		if v != plan.L4 && v != plan.L7 && !v.Traits().Redirect {
			continue
		}
		var mine []Trial
		for _, t := range kept {
			if t.Variant == v {
				mine = append(mine, t)
			}
		}
		if len(mine) > 0 {
			all = append(all, checkRedirect(v, mine))
		}
	}
	return all
}

func checkRedirect(v plan.Variant, kept []Trial) report.Check {
	name := string(v) + " redirected every connection"
	var want, got uint64
	worst := ""
	for _, t := range kept {
		if t.Redirected == nil {
			return report.Checkf(name, false, "%s has no count of redirects", t)
		}
		want += uint64(t.Client.Connections)
		got += *t.Redirected
		if *t.Redirected != uint64(t.Client.Connections) && worst == "" {
			worst = fmt.Sprintf("; first in %s: %d of %d%s", t, *t.Redirected, t.Client.Connections, countedOtherwise(t))
		}
	}
	return report.Checkf(name, worst == "" && want > 0, "%d redirects, %d connections%s", got, want, worst)
}

// countedOtherwise says where what is missing may have gone.
func countedOtherwise(t Trial) string {
	var b strings.Builder
	for _, how := range slices.Sorted(maps.Keys(t.Otherwise)) {
		fmt.Fprintf(&b, ", %d %s", t.Otherwise[how], how)
	}
	return b.String()
}

func checkClient(kept []Trial) report.Check {
	var worst float64
	variant := plan.Variant("")
	type sum struct{ cpu, wall float64 }
	sums := map[plan.Variant]sum{}
	for _, t := range kept {
		if t.Mode == plan.Fixed {
			s := sums[t.Variant]
			sums[t.Variant] = sum{s.cpu + t.CPU.Client.Seconds(), s.wall + t.Wall.Seconds()}
		}
	}
	for _, v := range plan.Variants() {
		if s, ok := sums[v]; ok && s.cpu/s.wall > worst {
			worst, variant = s.cpu/s.wall, v
		}
	}
	return report.Checkf("fixed: the client is not saturated", variant != "" && worst < maxClientShare,
		"busiest client (%s) used %.0f %% of one core, below %.0f %% wanted", variant, 100*worst, 100*maxClientShare)
}

func checkMissed(kept []Trial) report.Check {
	slots, missed, late := 0, 0, 0
	for _, t := range kept {
		slots += t.Client.Slots
		missed += t.Client.Missed
		late += t.Client.Late
	}
	ok := slots > 0 && float64(missed) < maxMissedShare*float64(slots)
	return report.Checkf("fixed: the schedule was kept", ok,
		"%d of %d slots never left, below %.1f %% wanted; %d left a slot or more late (their response time says so)",
		missed, slots, 100*maxMissedShare, late)
}
