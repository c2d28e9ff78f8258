// Package report is the form in which every suite, gate and benchmark says what
// it found: verdicts with their checks, JSON lines, tables for people, JUnit
// for CI systems.
package report

import (
	"fmt"
	"time"
)

// Verdict is what a gate found.
type Verdict string

// The verdicts. The worst of several stands for all: Fail, then Inconclusive,
// then NotRun, then Pass.
const (
	Pass Verdict = "pass"
	// Fail: something went where it was not declared to go.
	Fail Verdict = "fail"
	// Inconclusive: the judge lost events or lacks a witness, so nothing is said.
	Inconclusive Verdict = "inconclusive"
	// NotRun: this world or kernel cannot express it; the reason is given.
	NotRun Verdict = "not-run"
)

// Exit codes of every duomesh command.
const (
	ExitPass         = 0
	ExitFail         = 1
	ExitUsage        = 2
	ExitInconclusive = 3
)

func (v Verdict) rank() int {
	switch v {
	case Fail:
		return 3
	case Inconclusive:
		return 2
	case NotRun:
		return 1
	}
	return 0
}

// Worse returns the worse of two verdicts.
func (v Verdict) Worse(w Verdict) Verdict {
	if w.rank() > v.rank() {
		return w
	}
	return v
}

// ExitCode returns the exit code of a command that ends with the verdict. A
// gate that did not run has shown nothing: inconclusive.
func (v Verdict) ExitCode() int {
	switch v {
	case Pass:
		return ExitPass
	case Fail:
		return ExitFail
	}
	return ExitInconclusive
}

// Check is one statement that was held against the facts.
type Check struct {
	// Name is the rule, for example "no leak".
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	// Detail gives the numbers behind the verdict.
	Detail string `json:"detail"`
	// Share has them where a share was judged.
	Share *Share `json:"share,omitempty"`
}

// Share is a count that was held against a declared share.
type Share struct {
	// Pod is where Count of Total went; Want is the share that was declared.
	Pod   string  `json:"pod"`
	Count int     `json:"count"`
	Total int     `json:"total"`
	Want  float64 `json:"want"`
	// Low and High are the least and the most that were accepted.
	Low  int `json:"low"`
	High int `json:"high"`
}

// Checkf makes a check that passes when ok is set.
func Checkf(name string, ok bool, format string, args ...any) Check {
	c := Check{Name: name, Verdict: Fail, Detail: fmt.Sprintf(format, args...)}
	if ok {
		c.Verdict = Pass
	}
	return c
}

// Result is the outcome of one run of one scenario.
type Result struct {
	Scenario string `json:"scenario"`
	// World is where it ran, for example "netsim".
	World string `json:"world"`
	// Run counts repeats from 1; Seed drove every random choice of this run.
	Run     int     `json:"run"`
	Seed    uint64  `json:"seed"`
	Verdict Verdict `json:"verdict"`
	// Reason says why a scenario did not run or is inconclusive.
	Reason string `json:"reason,omitempty"`
	// Connections is the number of client connections that were judged.
	Connections int `json:"connections"`
	// Providers names the kernel observer of each event.
	Providers map[string]string `json:"providers,omitempty"`
	Checks    []Check           `json:"checks,omitempty"`
	Elapsed   time.Duration     `json:"elapsed_ns"`
}

// Add appends checks and lowers the verdict to the worst of them.
func (r *Result) Add(checks ...Check) {
	r.Checks = append(r.Checks, checks...)
	for _, c := range checks {
		r.Verdict = r.Verdict.Worse(c.Verdict)
	}
}

// Failed returns the checks that did not pass.
func (r Result) Failed() []Check {
	var failed []Check
	for _, c := range r.Checks {
		if c.Verdict != Pass {
			failed = append(failed, c)
		}
	}
	return failed
}

// Overall returns the verdict of several results: the worst of them. A list
// without a single run is NotRun.
func Overall(results []Result) Verdict {
	worst := NotRun
	for i, r := range results {
		if i == 0 {
			worst = r.Verdict
		}
		worst = worst.Worse(r.Verdict)
	}
	return worst
}
